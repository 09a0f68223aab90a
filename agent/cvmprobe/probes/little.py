"""Little's law: a closed loop checks itself, for mean latency x rate is what was under way."""

from collections.abc import Sequence
from dataclasses import replace

from cvmprobe.model.window import Flag, Phase, Window

__all__ = ["judge_in_flight"]

_SHARE = 0.01
_OPERATIONS = 100  # per slot: with fewer, the ends of the measurement weigh too much


def judge_in_flight(windows: tuple[Window, ...], latencies: Sequence[str], slots: int) -> tuple[Window, ...]:
    """Flag the steady windows when mean latency x rate, over all of them, is not the number of slots.

    ``latencies`` names the histograms of what holds a slot, the first one is always there. One slot is not judged:
    what is between two operations weighs too much there.
    """
    steady = [window for window in windows if window.phase is Phase.STEADY and latencies[0] in window.histograms]
    held = [window.histograms[name] for window in steady for name in latencies if name in window.histograms]
    if slots == 1 or sum(histogram.count for histogram in held) < _OPERATIONS * slots:
        return windows
    in_flight = sum(histogram.sum for histogram in held) / sum(window.duration_ns for window in steady)
    if abs(in_flight / slots - 1) <= _SHARE:
        return windows
    return tuple(
        replace(window, flags=window.flags | {Flag.LITTLE}) if window.phase is Phase.STEADY else window
        for window in windows
    )
