"""Every probe that this build can run, and the one way to run it."""

from collections.abc import Mapping
from types import MappingProxyType

from cvmprobe.errors import UsageError
from cvmprobe.model.window import Probe
from cvmprobe.probes import compute, disk, loaded_rr, tcp_crr, tcp_rr, tcp_stream, udp_rr, udp_stream
from cvmprobe.probes.entry import Entry
from cvmprobe.probes.execution import Execution, Setup

__all__ = ["CATALOG", "prepare"]

_ENTRIES: tuple[Entry, ...] = (
    tcp_rr.ENTRY,
    tcp_crr.ENTRY,
    tcp_stream.ENTRY,
    udp_rr.ENTRY,
    udp_stream.ENTRY,
    loaded_rr.ENTRY,
    disk.ENTRY,
    compute.ENTRY,
)

CATALOG: Mapping[Probe, Entry] = MappingProxyType({entry.probe: entry for entry in _ENTRIES})


def prepare(setup: Setup) -> Execution:
    """Check what is asked and return its execution, not yet begun. Raises UsageError that names what is wrong."""
    probe = setup.instance.probe
    entry = CATALOG.get(probe)
    if entry is None:
        raise UsageError(f"no engine measures {probe} yet; there are {', '.join(sorted(CATALOG)) or 'none'}")
    return entry.prepare(setup)
