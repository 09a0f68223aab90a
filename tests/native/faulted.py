"""One execution of the disk probe while something fails, held to what must be true whatever fails."""

import os
from pathlib import Path

from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.window import Direction, Flag, Instance, Probe
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.execution import Setup
from cvmprobe.probes.scratch import SHELF

MIB = 1 << 20
FAILURES = ("short_transfers", "io_errors", "space_errors", "other_errors")


def attempt(directory: Path, **parameters: str) -> str:
    """Measure for a moment; say how it ended: ``error: ...``, ``flagged``, ``degraded: ...`` or ``sound``.

    AssertionError where a figure contradicts another, a failure is silent, or anything is left behind.
    """
    asked = {"file_bytes": str(MIB), "depth": "8", "engine": "auto", **parameters}
    instance = Instance("0" * 32, Probe.DISK, Endpoint("n", Role.POD), VolumeTarget("v"), Direction.NONE, 0, asked)
    before = descriptors()
    execution = prepare(Setup(instance, 20, 60, 64 * MIB, volume=directory))
    windows = list(execution.observe())
    result = execution.result()
    SHELF.clear()
    assert list(directory.iterdir()) == [], "a file is left"
    assert descriptors() == before, "a descriptor is left"
    check_sums(windows, result.totals)
    if result.error is not None:
        assert "\n" not in str(result.error)
        assert not result.windows or any(window.flags & {Flag.ERROR, Flag.CUT} for window in result.windows)
        return f"error: {result.error}"
    failed = [window for window in result.windows if any(window.counters.get(name) for name in FAILURES)]
    assert all(Flag.ERROR in window.flags for window in failed), "operations failed, and no flag says so"
    if failed:
        return "flagged"
    assert sum(window.histograms["total_ns"].count for window in windows) > 0, "nothing measured, and no error"
    fallback = windows[0].facts.get("fallback")
    assert (fallback is not None) == (Flag.DEGRADED in windows[0].flags)
    return f"degraded: {fallback}" if fallback else "sound"


def check_sums(windows, totals):
    """What is counted twice is counted alike: by the windows and the totals, by operations, bytes and histograms."""
    for name in ("reads", "writes", "syncs", *FAILURES):
        assert sum(window.counters.get(name, 0) for window in windows) == totals.get(name, 0), name
    for kind in ("read", "write"):
        assert totals.get(f"{kind}_bytes", 0) == totals.get(f"{kind}s", 0) * 4096
    counted = sum(window.histograms["total_ns"].count for window in windows if "total_ns" in window.histograms)
    assert counted == totals.get("reads", 0) + totals.get("writes", 0)


def descriptors() -> set[str]:
    """What is open, but for what the look itself opens and the kernel's counters that Python keeps open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - iterdir would fail where an open() is made to fail
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")  # noqa: PTH115 - the same
        except FileNotFoundError:
            continue
    return found
