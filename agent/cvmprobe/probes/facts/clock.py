"""The clock that all stamps come from: what it is, what reading it costs, how it is kept."""

import time
from collections.abc import Iterator
from pathlib import Path

from cvmprobe.model.environment import Fact
from cvmprobe.native import kernel, recording
from cvmprobe.probes.facts.reading import fact, file_fact

__all__ = ["clock"]

_FOLDER = "sys/devices/system/clocksource/clocksource0"
_VDSO_SHARE = 0.7  # of the cost by system call: well below, it was read without one


def clock(root: Path) -> Iterator[Fact]:
    """Yield the clock's facts; takes about a millisecond."""
    yield file_fact(root, "clocksource", f"{_FOLDER}/current_clocksource")
    yield file_fact(root, "clocksources_available", f"{_FOLDER}/available_clocksource")
    cost = min(recording.cost_ns("clock", 2_000) for _ in range(5))
    by_syscall = min(recording.cost_ns("clock by system call", 1_000) for _ in range(5))
    yield Fact("clock_cost_ns", f"{cost:.0f}", "measured: CLOCK_MONOTONIC")
    yield Fact("clock_syscall_ns", f"{by_syscall:.0f}", "measured: CLOCK_MONOTONIC by system call")
    yield Fact(
        "clock_vdso", "yes" if cost < _VDSO_SHARE * by_syscall else "no", "clock_cost_ns beside clock_syscall_ns"
    )
    yield Fact("clock_resolution_ns", f"{time.clock_getres(time.CLOCK_MONOTONIC) * 1e9:.0f}", "clock_getres")
    yield fact("clock_discipline", "adjtimex", _discipline)


def _discipline() -> str:
    synchronized, ppm, error_us = kernel.clock_discipline()
    if not synchronized:
        return f"not synchronized, {ppm:+.3f} ppm"
    return f"synchronized, {ppm:+.3f} ppm, at most {error_us} us off"
