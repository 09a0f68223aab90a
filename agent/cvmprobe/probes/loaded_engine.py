"""Round trips alone, then beside a stream: two engines as one.

    start ── trips ────────────┬── trips ─────────────────────── deadline ── both stopped
             idle_latency_ns   │   loaded_latency_ns
                               └── stream armed, started; ends at the same deadline

The load begins after the first window that ends with the idle part, so that no window holds both.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvmprobe.errors import ProbeError

if TYPE_CHECKING:  # readable where no engine is built
    from cvmprobe.native.engine import Snapshot
    from cvmprobe.native.histogram import Histogram
    from cvmprobe.native.tcp_rr import TcpRr
    from cvmprobe.native.tcp_stream import TcpStream

__all__ = ["LoadedEngine", "LoadedSnapshot"]

_MS = 1_000_000
_BOTH = ("cpu_ns", "run_delay_ns")
_STREAM = {  # of its counters: those that stand beside the round trips, under which name
    "sent_bytes": "sent_bytes",
    "reverse_receiver_bytes": "reverse_receiver_bytes",
    "retransmitted_segments": "stream_retransmitted_segments",
}
_TRIPS = ("transactions", "timeouts")


@dataclass(frozen=True, slots=True)
class LoadedSnapshot:
    """Counters and histograms of both at about one moment; monotone, but for the name of the latency."""

    t_ns: int
    finished: bool
    counters: Mapping[str, int]
    histograms: Mapping[str, "Histogram"]


class LoadedEngine:
    """``trips`` is armed; ``load`` makes a stream of so many ms, not armed. ``stop`` may be called from any thread."""

    def __init__(self, trips: "TcpRr", load: Callable[[int], "TcpStream"], idle_ms: int, duration_ms: int) -> None:
        self.trips = trips
        self.stream: TcpStream | None = None
        self._load = load
        self._idle_ns = idle_ms * _MS
        self._duration_ns = duration_ms * _MS
        self._last: Snapshot | None = None
        self._mark: Snapshot | None = None  # of the round trips, when the load began
        self._starting = threading.Lock()
        self._stopped = False

    @property
    def started_ns(self) -> int:
        """Of the round trips."""
        return self.trips.started_ns

    @property
    def thread_ids(self) -> tuple[int, ...]:
        """Of both."""
        return self.trips.thread_ids + (() if self.stream is None else self.stream.thread_ids)

    @property
    def facts(self) -> dict[str, str]:
        """The round trips', and the stream's under names of their own."""
        stream = {} if self.stream is None else self.stream.facts
        return {**{f"stream_{name}": fact for name, fact in stream.items()}, **self.trips.facts, "engine": "loaded_rr"}

    @property
    def error(self) -> tuple[str, int] | None:
        """Of either."""
        return self.trips.error or (None if self.stream is None else self.stream.error)

    @property
    def results(self) -> dict[str, int] | None:
        """What the responder told of the round trips, and of its node."""
        return self.trips.results

    def start(self) -> None:
        """Let the round trips run."""
        self.trips.start()

    def snapshot(self, at_ns: int = 0) -> LoadedSnapshot:
        """Copy both at ``at_ns``; the first call after the idle part begins the load."""
        if self._last is not None and self._mark is None and self._last.t_ns >= self.started_ns + self._idle_ns:
            self._begin_load(self._last)
        trips = self._last = self.trips.snapshot(at_ns)
        stream = None
        if self.stream is not None and self.stream.state != "armed":
            stream = self.stream.snapshot(at_ns if trips.finished else 0)
        finished = trips.finished and (stream is None or stream.finished)
        t_ns = trips.t_ns if stream is None or not trips.finished else max(trips.t_ns, stream.t_ns)
        return LoadedSnapshot(t_ns, finished, self._counters(trips, stream), self._histograms(trips))

    def drain_samples(self) -> tuple[bytes, int]:
        """Return the raw rows of the round trips."""
        return self.trips.drain_samples()

    def stop(self) -> None:
        """End both."""
        with self._starting:
            self._stopped = True
        self.trips.stop()
        if self.stream is not None:
            self.stream.stop()

    def close(self) -> None:
        """Give everything back."""
        self.trips.close()
        if self.stream is not None:
            self.stream.close()

    def _begin_load(self, mark: "Snapshot") -> None:
        """Arm the stream now: a responder does not wait for ever for one that was armed before. Raises as arm does."""
        left_ms = (self.started_ns + self._duration_ns - mark.t_ns) // _MS
        if mark.finished or left_ms <= 0 or self._stopped:
            return
        self._mark = mark
        stream = self._load(left_ms)
        try:
            stream.arm()
        except ProbeError:
            stream.close()
            raise
        with self._starting:  # stop() comes before or after this, never in between
            self.stream = stream
            if not self._stopped:
                stream.start()

    def _counters(self, trips: "Snapshot", stream: "Snapshot | None") -> dict[str, int]:
        mark = trips if self._mark is None else self._mark
        counters = {f"idle_{name}": mark.counters[name] for name in _TRIPS}
        counters |= {f"loaded_{name}": trips.counters[name] - mark.counters[name] for name in _TRIPS}
        beside = {} if stream is None else stream.counters
        counters |= {ours: beside.get(name, 0) for name, ours in _STREAM.items() if stream is None or name in beside}
        return counters | {name: trips.counters[name] + beside.get(name, 0) for name in _BOTH if name in trips.counters}

    def _histograms(self, trips: "Snapshot") -> dict[str, "Histogram"]:
        whole = trips.histograms["latency_ns"]
        if self._mark is None:
            return {"idle_latency_ns": whole}
        return {"loaded_latency_ns": whole.minus(self._mark.histograms["latency_ns"])}
