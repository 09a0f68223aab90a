"""The monotonic and the wall clock read as one moment."""

import time

from cvmprobe.model.window import ClockPair

__all__ = ["clock_pair"]

_ATTEMPTS = 5
_TIGHT_NS = 20_000  # a reading is good when both clocks were read within this


def clock_pair() -> ClockPair:
    """Read both clocks as close together as a few attempts allow; the monotonic time is the middle of the reading."""
    best_gap_ns: int | None = None
    best = ClockPair(0, 0)
    for _ in range(_ATTEMPTS):
        before = time.monotonic_ns()
        unix_ns = time.time_ns()
        gap_ns = time.monotonic_ns() - before
        if best_gap_ns is None or gap_ns < best_gap_ns:
            best_gap_ns, best = gap_ns, ClockPair(before + gap_ns // 2, unix_ns)
        if gap_ns <= _TIGHT_NS:
            break
    return best
