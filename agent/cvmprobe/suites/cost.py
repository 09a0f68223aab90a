"""What a suite uses at the most: seconds, payload bytes, bytes written to disks.

The same bounds cap every lease (``Lease.max_bytes``), so a run cannot use more than was stated.
"""

from collections.abc import Mapping

from cvmprobe.model.endpoint import Path
from cvmprobe.model.run import Cost, Step, Suite
from cvmprobe.model.window import Probe

__all__ = ["cost", "lease_bytes", "lease_seconds"]

_STREAM_BYTES_PER_S = 12_500_000_000  # 100 Gbit/s
_TRANSACTIONS_PER_S = 1_000_000
_DISK_BYTES_PER_S = 2_000_000_000
_FILL_BYTES_PER_S = 50_000_000  # a slow disk fills its file at this rate before it is measured
_NETWORK_SETTLE_S = 4.0  # 2 s for the hello, 2 s for the drain
_DISK_SETTLE_S = 2.0


def cost(suite: Suite, pairs: Mapping[Path, int], volumes: int) -> Cost:
    """Return upper bounds for a run of ``suite``, one lease after the other.

    ``pairs`` is the number of ordered pairs on each path, ``volumes`` the number of endpoints whose volumes
    are measured; a path without pairs costs nothing.
    """
    seconds, network_bytes, disk_write_bytes = 0.0, 0, 0
    for step in suite.steps:
        leases = suite.repeats * (volumes if step.path is None else pairs.get(step.path, 0))
        seconds += leases * lease_seconds(step)
        if step.path is None:
            disk_write_bytes += leases * lease_bytes(step)
        else:
            network_bytes += leases * lease_bytes(step)
    return Cost(seconds, network_bytes, disk_write_bytes)


def lease_seconds(step: Step) -> float:
    """Upper bound of one lease from its grant to its last report, in seconds."""
    measured = step.duration_ms / 1_000
    if step.path is not None:
        return measured + _NETWORK_SETTLE_S
    return measured + _DISK_SETTLE_S + _number(step, "file_bytes") / _FILL_BYTES_PER_S


def lease_bytes(step: Step) -> int:
    """Upper bound of one lease's payload bytes, or of the bytes it writes to a disk, its scratch file included."""
    seconds = step.duration_ms / 1_000
    if step.probe is Probe.TCP_RR:
        per_transaction = _number(step, "request_bytes", 1) + _number(step, "response_bytes", 1)
        return int(seconds * (_number(step, "rate_per_s") or _TRANSACTIONS_PER_S) * per_transaction)
    if step.probe is Probe.DISK:
        reads_only = step.parameters.get("mode") == "randread"
        return _number(step, "file_bytes") + (0 if reads_only else int(seconds * _DISK_BYTES_PER_S))
    return int(seconds * _STREAM_BYTES_PER_S)


def _number(step: Step, parameter: str, default: int = 0) -> int:
    return int(step.parameters.get(parameter, default))
