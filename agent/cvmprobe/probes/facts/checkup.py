"""What takes a moment to find out, so that only a person's question is worth it."""

import errno
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cvmprobe.model.environment import Fact
from cvmprobe.native.timer import Timer
from cvmprobe.probes.facts.reading import fact, unknown
from cvmprobe.probes.interference import Interference, pressure_fact, pressure_shares

__all__ = ["checkup"]

_WAKES = 1_000
_WAKES_PER_S = 1_000
_LATE_NS = 1_000_000  # as in the flag ``late``
_ROW = struct.Struct("=QIBBH")  # a raw sample: t_ns, value_ns, kind, flags, aux


def checkup(volumes: Mapping[str, Path]) -> Iterator[Fact]:
    """Yield how late a timer wakes here, what the node waits for meanwhile, and what each volume takes. About 1 s.

    An empty file is made in each volume, and is gone when this ends.
    """
    seen = Interference()
    begun_ns = time.monotonic_ns()
    yield from _timer()
    counters = seen.counters()
    shares = pressure_shares(counters, time.monotonic_ns() - begun_ns)
    if shares:
        yield Fact("pressure_now", pressure_fact(shares), "/proc/pressure, over the timer's run")
        yield Fact("pressure_now_worst", f"{max(shares.values()):.3f}", "/proc/pressure, share of the timer's run")
    else:
        yield unknown("pressure_now", "/proc/pressure: not there")
    if "throttled_periods" in counters:
        yield Fact("throttled_now", str(counters["throttled_periods"]), "cpu.stat, over the timer's run")
    for name, path in volumes.items():
        yield fact(f"volume_{name}_direct_io", "tried: open with O_DIRECT", _direct_io(path))


def _timer() -> Iterator[Fact]:
    engine = Timer(rate_per_s=_WAKES_PER_S, limit=_WAKES, ring_rows=_WAKES)
    engine.arm()
    try:
        engine.start()
        engine.snapshot(engine.started_ns + 2 * _WAKES * 1_000_000_000 // _WAKES_PER_S)
        rows, _ = engine.drain_samples()
    finally:
        engine.close()
    late = sorted(row[1] for row in _ROW.iter_unpack(rows))
    source = f"measured: {len(late)} wakes at {_WAKES_PER_S} a second"
    if not late:
        yield unknown("timer_late_p50_ns", source)
        return
    yield Fact("timer_late_p50_ns", str(late[len(late) // 2]), source)
    yield Fact("timer_late_p99_ns", str(late[len(late) * 99 // 100]), source)
    yield Fact(
        "timer_late_share", f"{sum(value > _LATE_NS for value in late) / len(late):.4f}", f"{source}, over 1 ms late"
    )


def _direct_io(path: Path) -> Callable[[], str]:
    def tried() -> str:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".cvmprobe-") as file:
            try:
                os.close(os.open(file.name, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC))
            except OSError as error:
                return f"refused: open: {errno.errorcode.get(error.errno or 0, '?')} (errno {error.errno})"
            return "available"

    return tried
