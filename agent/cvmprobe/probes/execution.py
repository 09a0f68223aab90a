"""One execution of a probe: an engine's snapshots, cut into windows. The same machine for every probe.

    look → face.open → start → (snapshot at start + k * interval → minus the one before → window)* → stop → complete

A lease looks at the node for a moment before it begins (PSI): is it quiet enough? Its windows keep the answer.

The moments are kept by C (Engine.snapshot), so a busy interpreter may make a window longer, and loses nothing:
counters never go back, and the sum of all windows equals the total.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cvmprobe.errors import EngineError, ProbeError, UsageError
from cvmprobe.model.endpoint import PeerAddress
from cvmprobe.model.window import Flag, Instance, SampleBlock, Window
from cvmprobe.probes.clock import clock_pair
from cvmprobe.probes.cutter import Cutter
from cvmprobe.probes.interference import (
    PRESSED_SHARE,
    Interference,
    admit,
    flags_of,
    pressure_fact,
    pressure_shares,
)
from cvmprobe.probes.node_cpu import NODE_CPU_MS, NodeCpu, node_totals
from cvmprobe.probes.runner import Runner
from cvmprobe.probes.samples import SampleShelf

__all__ = ["Completed", "Execution", "Face", "Result", "Setup"]

_MS = 1_000_000
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything one execution needs: given values, never settings."""

    instance: Instance
    interval_ms: int
    duration_ms: int | None  # warm-up included; None: until stop()
    max_bytes: int  # of payload, or of disk writes; 0 allows none
    raw_samples: bool = False
    peer: PeerAddress | None = None
    key: bytes = field(default=b"", repr=False)
    volume: Path | None = None
    max_pressure: float | None = None  # share of the moment before; None: not looked at, as for light probes
    after_unix_ms: int = 0  # when the instance's last window ended: the wall clock may have gone back since


@dataclass(frozen=True, slots=True)
class Completed:
    """Windows and totals with what only the end of an execution could tell, such as the receiver's counters."""

    windows: tuple[Window, ...]
    totals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """What an execution leaves. ``windows`` is empty for one without a duration: each was given when it ended."""

    windows: tuple[Window, ...]
    totals: Mapping[str, int]
    samples: tuple[SampleBlock, ...]
    error: ProbeError | None


class Face(Protocol):
    """What one probe knows and the shared machine does not. Called from the thread of observe() alone."""

    @property
    def omit_ms(self) -> int:
        """Warm-up at the beginning."""

    @property
    def operations(self) -> Sequence[str]:
        """Counters that add up to the number of paced operations; empty where nothing is paced."""

    def open(self, stopping: Callable[[], bool]) -> Runner:
        """Prepare and return an armed engine; give up with a ProbeError soon after ``stopping()`` is true.

        A fact named ``fallback`` says why a lesser engine was used; it flags every window as degraded.
        """

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        """Finish what the engine's own counters cannot say; the engine is stopped and not yet closed."""

    def close(self) -> None:
        """Remove what open() made beside the engine, also after it failed."""


class Execution:
    """Runs one engine once. ``stop`` may be called from any thread, everything else from one.

    ``beside`` returns what the kernel counted of the probe's own subject since its last call, for each window.
    Raises UsageError where the windows could not tell the warm-up from the rest.
    """

    def __init__(self, setup: Setup, face: Face, beside: Callable[[], Mapping[str, int]] = dict) -> None:
        _check_times(setup, face.omit_ms)
        self._setup = setup
        self._face = face
        self._samples = SampleShelf(setup.instance)
        self._interference = Interference()
        self._count_beside = beside
        self._node_cpu = NodeCpu() if setup.peer is not None and (setup.duration_ms or 0) >= NODE_CPU_MS else None
        self._pressure: Mapping[str, float] = {}  # before it began
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._engine: Runner | None = None
        self._windows: list[Window] = []
        self._totals: Mapping[str, int] = {}
        self._error: ProbeError | None = None

    def observe(self) -> Iterator[Window]:
        """Run, and yield each window as its interval ends. Blocks; a ProbeError is kept for result()."""
        try:
            yield from self._run()
        except ProbeError as error:
            self._error = self._error or error
        finally:
            self._face.close()

    def stop(self) -> None:
        """Make observe() end soon; what it measured so far stays."""
        with self._starting:
            self._stopping.set()
        if self._engine is not None:
            self._engine.stop()

    def result(self) -> Result:
        """Return what is there once observe() has ended."""
        return Result(tuple(self._windows), self._totals, self._samples.take(), self._error)

    def _run(self) -> Iterator[Window]:
        self._look()
        engine = self._engine = self._face.open(self._stopping.is_set)
        with closing(engine):
            if self._node_cpu is not None:
                self._node_cpu.look(self._stopping.wait)
            if not self._start(engine):
                return
            try:
                yield from self._watch(engine)
            finally:
                engine.stop()
                self._finish(engine)

    def _look(self) -> None:
        """See what the node waits for just before; averages would still hold the lease before this one."""
        if self._setup.max_pressure is None:
            return
        self._interference.counters()
        begun_ns = time.monotonic_ns()
        self._stopping.wait(_LOOK_S)
        self._pressure = pressure_shares(self._interference.counters(), time.monotonic_ns() - begun_ns)
        admit(self._pressure, self._setup.max_pressure)

    def _start(self, engine: Runner) -> bool:
        with self._starting:  # stop() comes before or after this, never in between
            if self._stopping.is_set():
                return False
            self._interference.counters()  # what came before, such as filling a file, is in no window
            self._count_beside()
            self._node_counters()
            engine.start()
            return True

    def _watch(self, engine: Runner) -> Iterator[Window]:
        setup = self._setup
        interval_ns = setup.interval_ms * _MS
        duration_ns = None if setup.duration_ms is None else setup.duration_ms * _MS
        omit_ns = self._face.omit_ms * _MS
        cutter = Cutter(
            setup.instance,
            started_ns=engine.started_ns,
            omit_ns=omit_ns,
            duration_ns=duration_ns,
            after_unix_ms=setup.after_unix_ms,
        )
        finished = False
        while not finished:
            intervals = (cutter.last_ns - engine.started_ns) // interval_ns + 1
            snapshot = engine.snapshot(engine.started_ns + intervals * interval_ns)
            finished = snapshot.finished
            window = self._beside(cutter.cut(snapshot, self._facts(engine)))
            window = replace(window, flags=window.flags | self._judge(engine, window, finished=finished))
            if duration_ns is not None:
                self._windows.append(window)
            yield window

    def _facts(self, engine: Runner) -> Mapping[str, str]:
        return {**engine.facts, "pressure_before": pressure_fact(self._pressure)} if self._pressure else engine.facts

    def _beside(self, window: Window) -> Window:
        """Put beside a window what the kernel counted meanwhile; a light one keeps only the flag that comes of it."""
        seen = {**self._interference.counters(), **self._count_beside(), **self._node_counters()}
        flags = window.flags | ({Flag.THROTTLED} if seen.get("throttled_periods") else set())
        if self._setup.duration_ms is None:
            return replace(window, flags=flags)
        return replace(window, flags=flags, counters={**window.counters, **seen})

    def _node_counters(self) -> Mapping[str, int]:
        return {} if self._node_cpu is None else self._node_cpu.counters()

    def _judge(self, engine: Runner, window: Window, *, finished: bool) -> set[Flag]:
        """Return the flags of a window that just ended; an engine with a failed worker is stopped."""
        threads = len(engine.thread_ids)
        flags = flags_of(
            window.counters, duration_ns=window.duration_ns, threads=threads, operations=self._face.operations
        )
        if any(share > PRESSED_SHARE for share in self._pressure.values()):
            flags.add(Flag.PRESSED)
        if self._setup.raw_samples and self._drain(engine):
            flags.add(Flag.OVERRUN)
        if engine.error is not None:
            flags.add(Flag.ERROR)
            engine.stop()
        stopped = self._stopping.is_set() or engine.error is not None
        if finished and stopped and self._setup.duration_ms is not None:
            flags.add(Flag.CUT)
        return flags

    def _drain(self, engine: Runner) -> int:
        """Take the raw rows of a window; return how many had been overwritten."""
        rows, overwritten = engine.drain_samples()
        self._samples.add(clock_pair(), rows, overwritten)
        return overwritten

    def _finish(self, engine: Runner) -> None:
        if engine.error is not None:
            call, errno = engine.error
            self._error = EngineError(call, errno, f"measure {self._setup.instance.probe}")
        self._totals = engine.snapshot().counters
        try:
            completed = self._face.complete(tuple(self._windows), self._totals)
        except ProbeError as error:
            self._error = self._error or error
            self._windows = [replace(window, flags=window.flags | {Flag.CUT}) for window in self._windows]
            return
        self._windows = list(completed.windows)
        results: Mapping[str, int] = getattr(engine, "results", None) or {}  # of an engine with a responder
        self._totals = {**completed.totals, **node_totals(completed.windows, results)}


def _check_times(setup: Setup, omit_ms: int) -> None:
    probe = setup.instance.probe
    if setup.interval_ms <= 0:
        raise UsageError(f"{probe}: interval of {setup.interval_ms} ms: give at least 1 ms")
    if omit_ms % setup.interval_ms:
        raise UsageError(
            f"{probe}: parameter omit_ms = {omit_ms}: give a multiple of the interval, {setup.interval_ms} ms"
        )
    if setup.duration_ms is not None and setup.duration_ms <= omit_ms:
        raise UsageError(f"{probe}: all {setup.duration_ms} ms are warm-up (omit_ms = {omit_ms}): measure for longer")
