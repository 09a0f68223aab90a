"""What one probe instance counted in one interval, and its raw operations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Target
from cvmprobe.model.histogram import Histogram

__all__ = [
    "INTERFERENCE",
    "ClockPair",
    "Direction",
    "Flag",
    "Instance",
    "InstanceKey",
    "Phase",
    "Probe",
    "SampleBlock",
    "Window",
]

INTERFERENCE = (
    "cpu_pressure_ns",
    "io_pressure_ns",
    "memory_pressure_ns",
    "throttled_periods",
    "throttled_ns",
    "steal_ns",
)
"""Counters of any window that tell of its node, not of its probe; each is absent where it is not known."""


class Probe(StrEnum):
    """One kind of measurement."""

    TCP_STREAM = "tcp_stream"
    TCP_RR = "tcp_rr"
    TCP_CRR = "tcp_crr"
    UDP_RR = "udp_rr"
    UDP_STREAM = "udp_stream"
    DISK = "disk"
    COMPUTE = "compute"
    API = "api"
    LOADED_RR = "loaded_rr"  # tcp_rr, then tcp_rr beside tcp_stream


class Direction(StrEnum):
    """Which way the payload goes, seen from the initiator."""

    FORWARD = "forward"
    REVERSE = "reverse"
    BOTH = "both"
    NONE = "none"


class Phase(StrEnum):
    """Where in its execution a window lies; a headline uses ``steady`` alone."""

    WARMUP = "warmup"
    STEADY = "steady"
    DRAIN = "drain"


class Flag(StrEnum):
    """Why a window may not mean what it seems to."""

    STARVED = "starved"  # the engine's threads waited for a CPU for more than 5 % of the window
    LATE = "late"  # more than 1 % of the paced operations started over 1 ms late
    THROTTLED = "throttled"  # the cgroup's CPU quota stopped us
    OVERRUN = "overrun"  # raw samples were overwritten before they were read
    CUT = "cut"  # ended before its drain: the two sides' totals are not equal
    BUSY = "busy"  # other leases ran on an end of this one
    ERROR = "error"  # the engine stopped on an error
    LITTLE = "little"  # mean latency x rate differs from the depth by more than 1 %
    PRESSED = "pressed"  # tasks of the node waited for over 20 % of the moment before it began
    DEGRADED = "degraded"  # a lesser engine than the one asked for was used


InstanceKey = tuple[str, Probe, Endpoint, Target, Direction, int]


@dataclass(frozen=True, slots=True)
class Instance:
    """The one execution a window belongs to; equal for all its windows."""

    assignment_id: str  # the plan or lease it was allowed by
    probe: Probe
    source: Endpoint
    target: Target
    direction: Direction
    repeat: int
    parameters: Mapping[str, str] = field(default_factory=dict)  # as asked, so that a table can tell two alike apart

    @property
    def key(self) -> InstanceKey:
        """All but the parameters, which the assignment settles: it can be hashed."""
        return self.assignment_id, self.probe, self.source, self.target, self.direction, self.repeat

    @property
    def path(self) -> Path | None:
        """How source and target are joined; None where the target is no endpoint."""
        return self.target.path if isinstance(self.target, EndpointTarget) else None


@dataclass(frozen=True, slots=True)
class ClockPair:
    """The monotonic and the wall clock, read at one moment, in ns."""

    monotonic_ns: int
    unix_ns: int


_WINDOW_BYTES = 1_024  # its instance included
_METRIC_BYTES = 256


@dataclass(frozen=True, slots=True)
class Window:
    """Counters and histograms of one interval: the difference of two snapshots of an engine.

    A counter or fact that is not known is absent, never 0. ``duration_ns`` is monotonic time between
    the two snapshots; ``end_unix_ms`` is strictly increasing within an instance.
    """

    instance: Instance
    end_unix_ms: int
    duration_ns: int
    phase: Phase
    counters: Mapping[str, int] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)  # as found: engine, congestion control, placement
    flags: frozenset[Flag] = frozenset()

    @property
    def weight(self) -> int:
        """About the bytes it takes in memory, for those who hold many."""
        names = sum(len(key) + len(text) for key, text in self.facts.items())
        buckets = sum(len(histogram.buckets) for histogram in self.histograms.values())
        return _WINDOW_BYTES + names + _METRIC_BYTES * (len(self.counters) + len(self.histograms)) + 64 * buckets


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """Raw operations of one instance: ``rows`` is count x 16 bytes, little endian.

    Row: u64 t_ns (monotonic), u32 value_ns (saturated at 2^32-1, flag bit 0), u8 kind, u8 flags, u16 aux.
    """

    instance: Instance
    clock: ClockPair
    rows: bytes
    lost: int  # overwritten in the ring, or shed on the way, since the block before
