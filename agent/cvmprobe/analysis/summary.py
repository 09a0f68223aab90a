"""From windows to the rows of a table: one summary per kind of measurement and metric."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cvmprobe.analysis.distribution import deviation, mean, merge, quantiles
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Target
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.query import Summary
from cvmprobe.model.window import INTERFERENCE, Direction, Flag, Instance, Phase, Probe, Window

__all__ = ["SPOILING", "Measurement", "headlines", "summarize"]

SPOILING = frozenset({Flag.OVERRUN, Flag.CUT, Flag.ERROR})  # the harness failed: such a window is in no headline

# The figures a person asks for first; of each tuple the first that is known. A stream is judged by what
# arrived, and by what was sent only where that is unknown.
HEADLINES: Mapping[Probe, tuple[tuple[str, ...], ...]] = {
    Probe.TCP_STREAM: (("receiver_bytes", "sent_bytes"), ("reverse_receiver_bytes",)),
    Probe.UDP_STREAM: (
        ("receiver_bytes", "sent_bytes"),
        ("lost_datagrams",),
        ("reverse_receiver_bytes",),
        ("reverse_lost_datagrams",),
    ),
    Probe.TCP_RR: (("latency_ns",), ("transactions",)),
    Probe.LOADED_RR: (("idle_latency_ns",), ("loaded_latency_ns",), ("receiver_bytes",), ("reverse_receiver_bytes",)),
    Probe.COMPUTE: (("unit_fs",),),
    Probe.DISK: (("reads",), ("writes",), ("commit_ns", "total_ns"), ("sync_ns",)),
}
HELD_HISTOGRAMS = 256  # per metric before they are merged into one, so that a long range needs no memory


class Measurement(NamedTuple):
    """What makes windows comparable: repeats and restarts of one kind fall together."""

    probe: Probe
    source: Endpoint
    target: Target
    direction: Direction
    parameters: tuple[tuple[str, str], ...]


def summarize(windows: Iterable[Window]) -> tuple[Summary, ...]:
    """Return one summary per measurement and metric, ordered by both, in one pass over the windows.

    Figures hold the steady windows without a flag of SPOILING; ``left_out`` counts the steady windows that
    have one. ``flags`` counts all windows after the warm-up. A metric's seconds are those of the windows
    that know it. A measurement of which nothing may be used still has its metrics, with ``windows`` 0.
    """
    tallies: defaultdict[Measurement, _Tally] = defaultdict(_Tally)
    for window in windows:
        tallies[_measurement(window.instance)].add(window)
    return tuple(row for group in sorted(tallies, key=_order) for row in tallies[group].rows(group))


def headlines(summaries: Iterable[Summary]) -> tuple[Summary, ...]:
    """Return of each measurement the metrics a person asks for first; all of them where none is named so."""
    kept = tuple(summaries)
    metrics: defaultdict[Measurement, set[str]] = defaultdict(set)
    for row in kept:
        metrics[_measurement(row)].add(row.metric)
    return tuple(row for row in kept if row.metric in _first_metrics(row.probe, metrics[_measurement(row)]))


def _first_metrics(probe: Probe, known: set[str]) -> set[str]:
    if probe not in HEADLINES:
        return known - set(INTERFERENCE)
    return {next((name for name in names if name in known), names[0]) for names in HEADLINES[probe]}


def _measurement(of: Instance | Summary) -> Measurement:
    return Measurement(of.probe, of.source, of.target, of.direction, tuple(sorted(of.parameters.items())))


def _path(target: Target) -> str:
    return target.path if isinstance(target, EndpointTarget) else ""


def _order(group: Measurement) -> tuple[object, ...]:
    return group.probe, group.source, str(group.target), _path(group.target), group.direction, group.parameters


@dataclass(slots=True)
class _Amount:
    """What the usable windows hold of one metric."""

    windows: int = 0
    duration_ns: int = 0
    count: int = 0
    histograms: list[Histogram] = field(default_factory=list)

    def add(self, duration_ns: int, value: int | Histogram) -> None:
        self.windows += 1
        self.duration_ns += duration_ns
        if isinstance(value, int):
            self.count += value
            return
        self.histograms.append(value)
        if len(self.histograms) >= HELD_HISTOGRAMS:
            self.histograms = [merge(self.histograms)]


@dataclass(slots=True)
class _Tally:
    """All that is kept of one measurement while its windows pass by."""

    left_out: int = 0
    counters: defaultdict[str, _Amount] = field(default_factory=lambda: defaultdict(_Amount))
    histograms: defaultdict[str, _Amount] = field(default_factory=lambda: defaultdict(_Amount))
    flags: Counter[Flag] = field(default_factory=Counter)
    facts: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, window: Window) -> None:
        for name, fact in window.facts.items():
            self.facts[name].add(fact)
        if window.phase is not Phase.WARMUP:
            self.flags.update(window.flags)
        steady, spoiled = window.phase is Phase.STEADY, bool(window.flags & SPOILING)
        self.left_out += steady and spoiled
        for name, counter in window.counters.items():
            amount = self.counters[name]
            if steady and not spoiled:
                amount.add(window.duration_ns, counter)
        for name, histogram in window.histograms.items():
            amount = self.histograms[name]
            if steady and not spoiled:
                amount.add(window.duration_ns, histogram)

    def rows(self, group: Measurement) -> Iterator[Summary]:
        for metric in sorted(self.counters):
            amount = self.counters[metric]
            seconds = amount.duration_ns / 1e9
            rate = amount.count / seconds if seconds else None
            yield self._row(group, metric, amount, amount.count, rate=rate)
        for metric in sorted(self.histograms):
            amount = self.histograms[metric]
            whole = merge(amount.histograms)
            points = quantiles(whole)
            yield self._row(
                group, metric, amount, whole.count, mean=mean(whole), deviation=deviation(whole), quantiles=points
            )

    def _row(
        self,
        group: Measurement,
        metric: str,
        amount: _Amount,
        count: int,
        *,
        rate: float | None = None,
        mean: float | None = None,
        deviation: float | None = None,
        quantiles: Mapping[float, float] | None = None,
    ) -> Summary:
        return Summary(
            source=group.source,
            probe=group.probe,
            target=group.target,
            path=group.target.path if isinstance(group.target, EndpointTarget) else None,
            direction=group.direction,
            parameters=dict(group.parameters),
            metric=metric,
            windows=amount.windows,
            seconds=amount.duration_ns / 1e9,
            count=count,
            rate=rate,
            mean=mean,
            quantiles=quantiles or {},
            flags={flag: self.flags[flag] for flag in sorted(self.flags)},
            facts={name: min(found) if len(found) == 1 else "mixed" for name, found in sorted(self.facts.items())},
            left_out=self.left_out,
            deviation=deviation,
        )
