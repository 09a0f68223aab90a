"""What disturbed a window: judged from what the engine and the kernel counted, never guessed.

before a lease     share of a moment in which a task of this node waited: admission, and the flag ``pressed``
beside a window    stall time of the node, time stolen by the hypervisor, throttling of our own cgroups
in its threads     run delay: ``starved``; operations that began late: ``late``
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cvmprobe.errors import RefusedError
from cvmprobe.model.window import Flag
from cvmprobe.probes.cgroup import cpu_groups, numbers
from cvmprobe.probes.steal import steal_source

__all__ = [
    "LATE_SHARE",
    "PRESSED_SHARE",
    "STARVED_SHARE",
    "Interference",
    "admit",
    "flags_of",
    "pressure_fact",
    "pressure_shares",
]

STARVED_SHARE = 0.05  # of the window, per engine thread
LATE_SHARE = 0.01  # of the operations; the engine counts those that start over 1 ms late
PRESSED_SHARE = 0.20  # of the moment before

_RESOURCES = ("cpu", "io", "memory")
_NS_PER_S = 1_000_000_000
_STEAL = 8  # column of /proc/stat: cpu user nice system idle iowait irq softirq steal


def flags_of(counters: Mapping[str, int], *, duration_ns: int, threads: int, operations: Sequence[str]) -> set[Flag]:
    """Judge one window by its own counters: ``starved`` and ``late``. What is not known raises no flag.

    ``operations`` names the counters that add up to the number of paced operations.
    """
    flags = set()
    run_delay_ns = counters.get("run_delay_ns")
    if run_delay_ns is not None and run_delay_ns > STARVED_SHARE * duration_ns * threads:
        flags.add(Flag.STARVED)
    late = counters.get("late_operations")
    if late is not None and late > LATE_SHARE * sum(counters.get(name, 0) for name in operations):
        flags.add(Flag.LATE)
    return flags


class Interference:
    """What the kernel counted against us since the last look; what it does not count is absent.

    cpu_pressure_ns, io_pressure_ns, memory_pressure_ns   some task of the node was stalled (PSI)
    throttled_periods, throttled_ns                       the quotas of our cgroup and those around it
    steal_ns                                              all CPUs of the node; only where the hypervisor tells it
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._groups = cpu_groups(root)
        self._tells_steal = steal_source(root) is not None
        self._seen = self._read()

    def counters(self) -> dict[str, int]:
        """Return the differences since the last call."""
        before, self._seen = self._seen, self._read()
        return {name: value - before[name] for name, value in self._seen.items() if name in before}

    def _read(self) -> dict[str, int]:
        return dict([*self._pressure(), *self._throttling(), *self._steal()])

    def _pressure(self) -> Iterator[tuple[str, int]]:
        for resource in _RESOURCES:
            total_us = _stalled_us(self._root / "proc/pressure" / resource)
            if total_us is not None:
                yield f"{resource}_pressure_ns", total_us * 1_000

    def _throttling(self) -> Iterator[tuple[str, int]]:
        stats = [stat for group in self._groups if (stat := numbers(group / "cpu.stat"))]
        if not stats:
            return
        yield "throttled_periods", sum(stat.get("nr_throttled", 0) for stat in stats)
        in_ns = sum(stat.get("throttled_time", 0) for stat in stats)  # v1
        in_us = sum(stat.get("throttled_usec", 0) for stat in stats)  # v2
        yield "throttled_ns", in_ns + in_us * 1_000

    def _steal(self) -> Iterator[tuple[str, int]]:
        ticks = _stolen_ticks(self._root) if self._tells_steal else None
        if ticks is not None:
            yield "steal_ns", ticks * _NS_PER_S // os.sysconf("SC_CLK_TCK")


def pressure_shares(counters: Mapping[str, int], elapsed_ns: int) -> dict[str, float]:
    """Return for each resource the share of the time in which a task waited for it; unknown ones are absent."""
    return {
        resource: min(1.0, counters[name] / elapsed_ns)
        for resource in _RESOURCES
        if (name := f"{resource}_pressure_ns") in counters
    }


def pressure_fact(shares: Mapping[str, float]) -> str:
    """Write shares as a fact: ``cpu 12 %, io 0 %, memory 0 %``."""
    return ", ".join(f"{resource} {share:.0%}".replace("%", " %") for resource, share in shares.items())


def admit(shares: Mapping[str, float], limit: float) -> None:
    """Raise RefusedError where the node waits for more than ``limit`` of the time: nothing sound can begin now."""
    for resource, share in shares.items():
        if share > limit:
            raise RefusedError(
                f"tasks of this node waited for {resource} {share:.0%} of the time just before, and {limit:.0%} is the"
                " most (agent.max_pressure_percent): measure when the node is quieter"
            )


def _stalled_us(path: Path) -> int | None:
    """Return how long some task waited, in us since boot, as the first line of a PSI file tells it."""
    try:
        line = path.read_text().partition("\n")[0]
    except OSError:  # not there, or not switched on (EOPNOTSUPP)
        return None
    total = line.rpartition("total=")[2]
    return int(total) if line.startswith("some ") and total.isdecimal() else None


def _stolen_ticks(root: Path) -> int | None:
    try:
        with (root / "proc/stat").open() as stat:
            columns = stat.readline().split()
    except OSError:
        return None
    return int(columns[_STEAL]) if len(columns) > _STEAL and columns[0] == "cpu" else None
