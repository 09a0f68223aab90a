"""Two snapshots of an engine, subtracted: a window."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import ClockPair, Flag, Instance, Phase, Window
from cvmprobe.probes.clock import clock_pair
from cvmprobe.probes.runner import Shot
from cvmprobe.probes.silence import observed

if TYPE_CHECKING:  # readable where no engine is built
    from cvmprobe.native.histogram import Histogram as NativeHistogram

__all__ = ["Cutter"]

_PAST_DEADLINE_SHARE = 0.05  # of a window: one that outlives the deadline by more is no longer steady


class Cutter:
    """Turns the snapshots of one execution, in their order, into windows without a hole between them.

    The first window begins at ``started_ns``. Phases: ``omit_ns`` of warm-up, which ``duration_ns``
    includes (None: no end), then steady, then drain. Every window ends after ``after_unix_ms``.
    """

    def __init__(
        self, instance: Instance, *, started_ns: int, omit_ns: int, duration_ns: int | None, after_unix_ms: int = 0
    ) -> None:
        self._instance = instance
        self._steady_ns = started_ns + omit_ns
        self._deadline_ns = None if duration_ns is None else started_ns + duration_ns
        self._last: Shot | None = None
        self._last_unix_ms = after_unix_ms
        self.last_ns = started_ns

    def cut(self, snapshot: Shot, facts: Mapping[str, str], pair: ClockPair | None = None) -> Window:
        """Return the window from the snapshot before to this one. ``pair`` tells its wall time (None: read it now)."""
        pair = pair or clock_pair()
        end_unix_ms = (pair.unix_ns + snapshot.t_ns - pair.monotonic_ns) // 1_000_000
        self._last_unix_ms = max(self._last_unix_ms + 1, end_unix_ms)
        counters = self._counters(snapshot)
        window = Window(
            instance=self._instance,
            end_unix_ms=self._last_unix_ms,
            duration_ns=snapshot.t_ns - self.last_ns,
            phase=self._phase(self.last_ns, snapshot.t_ns),
            counters=counters,
            histograms=self._histograms(snapshot),
            facts={**facts, **observed(counters)},
            flags=frozenset({Flag.DEGRADED} if "fallback" in facts else ()),
        )
        self._last, self.last_ns = snapshot, snapshot.t_ns
        return window

    def _phase(self, begin_ns: int, end_ns: int) -> Phase:
        if begin_ns < self._steady_ns:
            return Phase.WARMUP
        if self._deadline_ns is None or end_ns - self._deadline_ns <= _PAST_DEADLINE_SHARE * (end_ns - begin_ns):
            return Phase.STEADY
        return Phase.DRAIN

    def _counters(self, snapshot: Shot) -> dict[str, int]:
        """Leave out what is not known at both ends; all counters begin at 0."""
        if self._last is None:
            return dict(snapshot.counters)
        before = self._last.counters
        return {name: value - before[name] for name, value in snapshot.counters.items() if name in before}

    def _histograms(self, snapshot: Shot) -> dict[str, Histogram]:
        before = {} if self._last is None else self._last.histograms
        return {
            name: _portable(whole.minus(before[name]) if name in before else whole)
            for name, whole in snapshot.histograms.items()
        }


def _portable(histogram: "NativeHistogram") -> Histogram:
    indices, counts = histogram.sparse()
    return Histogram(
        buckets=dict(zip(indices, counts, strict=True)),
        zero=histogram.zero,
        overflow=histogram.overflow,
        sum=histogram.sum,
        sum_squares=histogram.sum_squares,
        minimum=histogram.minimum,
        maximum=histogram.maximum,
    )
