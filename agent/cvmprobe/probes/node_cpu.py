"""What a measurement costs the whole node: the time of all its CPUs, beside what they were doing anyway.

    armed ── a moment without load: the baseline ── started ── window ── window ── …

Work on behalf of a connection is done in threads of the kernel, too (softirq, WireGuard's workers), so the time of
the engine's own threads is only a part. The other end's figures come from the responder, which does the same.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cvmprobe.model.window import Window

__all__ = ["NODE_CPU_MS", "NodeCpu", "node_totals"]

NODE_CPU_MS = 1_000
"""Shorter loads are not held against the node: /proc/stat counts in steps of 10 ms for each CPU."""

_LOOK_S = 0.25
_NS_PER_S = 1_000_000_000
_COLUMNS = 9  # cpu user nice system idle iowait irq softirq steal
_NAMES = ("node_busy_ns", "node_irq_ns", "node_softirq_ns", "node_baseline_ns")


class NodeCpu:
    """CPU time of the node since the last look; what is not known is absent.

    node_busy_ns                   all CPUs: all but idle and waiting for I/O
    node_irq_ns, node_softirq_ns   of it, where the kernel served interrupts
    node_baseline_ns               as busy as it was before the load, it would have been so long
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._stat = root / "proc/stat"
        self._clock = clock
        self._tick_ns = _NS_PER_S // os.sysconf("SC_CLK_TCK")
        self._baseline: float | None = None  # busy ns in each ns
        self._seen: Mapping[str, int] = {}
        self._seen_ns = 0

    def look(self, wait: Callable[[float], object]) -> None:
        """Learn the baseline in a moment without load."""
        self.counters()
        before_ns = self._seen_ns
        wait(_LOOK_S)
        busy_ns = self.counters().get("node_busy_ns")
        if busy_ns is not None and self._seen_ns > before_ns:
            self._baseline = busy_ns / (self._seen_ns - before_ns)

    def counters(self) -> dict[str, int]:
        """Return the differences since the last call."""
        before, before_ns = self._seen, self._seen_ns
        self._seen, self._seen_ns = self._read(), self._clock()
        found = {name: value - before[name] for name, value in self._seen.items() if name in before}
        if self._baseline is not None and found:
            found["node_baseline_ns"] = round(self._baseline * (self._seen_ns - before_ns))
        return found

    def _read(self) -> dict[str, int]:
        try:
            with self._stat.open() as stat:
                columns = stat.readline().split()
        except OSError:
            return {}
        if len(columns) < _COLUMNS or columns[0] != "cpu":
            return {}
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in columns[1:_COLUMNS])
        busy = user + nice + system + irq + softirq + steal
        return dict(zip(_NAMES, (busy * self._tick_ns, irq * self._tick_ns, softirq * self._tick_ns), strict=False))


def node_totals(windows: tuple[Window, ...], results: Mapping[str, int]) -> dict[str, int]:
    """Return the node's time over a whole execution: of this end, and as the responder told it of its own."""
    known = [name for name in _NAMES if windows and all(name in window.counters for window in windows)]
    here = {name: sum(window.counters[name] for window in windows) for name in known}
    return here | {f"responder_{name}": results[name] for name in _NAMES if name in results}
