"""What every probe with a peer asks of its setup, and how the responder's counters join the windows."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate

from cvmprobe.errors import UsageError
from cvmprobe.model.session import Session
from cvmprobe.model.window import Direction, Flag, Window
from cvmprobe.probes.entry import Metric
from cvmprobe.probes.execution import Setup

__all__ = ["OWN_CPU", "ROUND_TRIPS", "SILENCE", "cut", "join_bins", "read_session"]


ROUND_TRIPS = (
    Metric("latency_ns", "ns", "full round trip; paced: from the intended start, waiting included", headline=True),
    Metric("transactions", "transactions", "requests that were answered", headline=True),
    Metric("service_ns", "ns", "full round trip from the moment the request was sent (paced only)"),
    Metric("late_operations", "transactions", "started over 1 ms late (paced only)"),
)
OWN_CPU = (
    Metric("cpu_ns", "ns", "CPU time of the engine's threads"),
    Metric("run_delay_ns", "ns", "how long the engine's threads were ready and had no CPU"),
)
SILENCE = (
    Metric("no_ack_ns", "ns", "over half a second that nothing under way was acknowledged, over all connections"),
    Metric("unanswered_ns", "ns", "over half a second that all was acknowledged, but no answer or no room came"),
)


def read_session(setup: Setup, directions: Collection[Direction] = (Direction.FORWARD,)) -> Session:
    """Return the session of a setup whose probe has a peer and knows these directions.

    Raises UsageError that names what is wrong.
    """
    instance = setup.instance
    if setup.peer is None or not setup.key:
        raise UsageError(f"{instance.probe}: there is no peer to measure against, or no key for it")
    if instance.direction not in directions:
        known = ", ".join(directions)
        raise UsageError(f"{instance.probe}: direction {instance.direction} is not measured: ask for {known}")
    try:
        session_id = bytes.fromhex(instance.assignment_id)
    except ValueError:
        raise UsageError(f"{instance.probe}: assignment id {instance.assignment_id!r} is not hexadecimal") from None
    return Session(setup.peer, session_id, setup.key, setup.max_bytes)


def join_bins(windows: Sequence[Window], name: str, bins: Sequence[int], interval_ms: int) -> tuple[Window, ...]:
    """Add to each window, as counter ``name``, what was counted in the same intervals since the first payload byte.

    A window ends at or soon after the end of an interval; one that a late reader made longer takes the bins of all
    its intervals, the last one takes the rest. So the windows add up to the bins.
    """
    interval_ns = interval_ms * 1_000_000
    ends = [end_ns // interval_ns for end_ns in accumulate(window.duration_ns for window in windows)]
    ends[-1:] = [len(bins)] * bool(ends)
    return tuple(
        replace(window, counters={**window.counters, name: sum(bins[first:last])})
        for window, first, last in zip(windows, [0, *ends], ends, strict=False)
    )


def cut(windows: Sequence[Window]) -> tuple[Window, ...]:
    """Flag all windows of an execution whose ends did not come to the same totals."""
    return tuple(replace(window, flags=window.flags | {Flag.CUT}) for window in windows)
