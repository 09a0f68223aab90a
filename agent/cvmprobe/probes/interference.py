"""What disturbed a window: judged from what the engine and the kernel counted, never guessed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cvmprobe.model.window import Flag

__all__ = ["LATE_SHARE", "STARVED_SHARE", "Throttle", "flags_of"]

STARVED_SHARE = 0.05  # of the window, per engine thread
LATE_SHARE = 0.01  # of the operations; the engine counts those that start over 1 ms late


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


class Throttle:
    """How often the CPU quota of this process's cgroup (v2, else v1) stopped it, since the last look."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.stat = _cpu_stat(root)
        self._seen = self.count()

    def count(self) -> int | None:
        """Periods throttled so far; None where no quota is kept or the file cannot be read."""
        return None if self.stat is None else _throttled(self.stat)

    def rose(self) -> bool:
        """Whether it happened again since the last call; unknown is no rise."""
        before, self._seen = self._seen, self.count()
        return before is not None and self._seen is not None and self._seen > before


def _throttled(stat: Path) -> int | None:
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("nr_throttled ")), None)


def _cpu_stat(root: Path) -> Path | None:
    """Return the cpu.stat of our group. In a container its own group is mounted as the root of the hierarchy."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    mount = root / "sys/fs/cgroup"
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            places = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            places = [mount / controllers, mount / "cpu"]
        else:
            continue
        for place in places:
            for stat in (place / group.lstrip("/") / "cpu.stat", place / "cpu.stat"):
                if _throttled(stat) is not None:
                    return stat
    return None
