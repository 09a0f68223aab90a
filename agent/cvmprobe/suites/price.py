"""What a suite uses at the most, by what the catalog says of each probe. Needs the probes, so it stands apart.

The same bounds cap every lease (``Lease.max_bytes``), so a run cannot use more than was stated.
"""

from collections.abc import Mapping

from cvmprobe.errors import UsageError
from cvmprobe.model.endpoint import Path
from cvmprobe.model.run import Cost, Step, Suite
from cvmprobe.probes.catalog import CATALOG

__all__ = ["cost", "lease_cost"]


def cost(suite: Suite, pairs: Mapping[Path, int], machines: int) -> Cost:
    """Return upper bounds for a run of ``suite``, one lease after the other.

    ``pairs`` is the number of ordered pairs on each path, ``machines`` the number of endpoints that measure
    their volumes or their node; a path without pairs costs nothing. Raises UsageError like ``lease_cost``.
    """
    seconds, network_bytes, disk_write_bytes = 0.0, 0, 0
    for step in suite.steps:
        path = step.taken(pairs)
        leases = suite.repeats * (machines if path is None else pairs.get(path, 0))
        one = lease_cost(step)
        seconds += leases * one.seconds
        network_bytes += leases * one.network_bytes
        disk_write_bytes += leases * one.disk_write_bytes
    return Cost(seconds, network_bytes, disk_write_bytes)


def lease_cost(step: Step) -> Cost:
    """Return upper bounds of one lease. UsageError names a probe without an engine, or a wrong parameter."""
    if step.probe not in CATALOG:
        raise UsageError(f"step {step.name} asks for {step.probe}, which no engine measures yet")
    return CATALOG[step.probe].cost(step.parameters, step.duration_ms)
