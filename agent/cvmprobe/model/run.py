"""One execution of a suite, and how far it is."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cvmprobe.model.endpoint import Path
from cvmprobe.model.window import Direction, Instance, Probe

__all__ = ["Cost", "LeaseRecord", "Run", "RunState", "Step", "Suite"]


class RunState(StrEnum):
    """How far a run is. ``partial``: it ended, and something of it is missing."""

    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # the collector ended while it ran

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self is not RunState.RUNNING


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of lease a suite asks for: on every pair of a path, on every volume, or (neither) on every node."""

    name: str
    probe: Probe
    direction: Direction
    duration_ms: int
    parameters: Mapping[str, str]
    path: Path | None = None  # None: the probe has no peer
    volume: str | None = None
    raw_samples: bool = False
    stand_in: Path | None = None  # the path to take where nobody is joined by ``path``, as in a local run
    label: str = ""  # what a published page calls this load
    really: str = ""  # what it is

    def taken(self, there: Container[Path]) -> Path | None:
        """Return the path to measure, of those that are there; None where the probe has no peer."""
        return self.stand_in if self.stand_in and self.path not in there else self.path


@dataclass(frozen=True, slots=True)
class Suite:
    """What a run measures."""

    name: str
    title: str
    interval_ms: int
    repeats: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run will use at the most, stated before it starts."""

    seconds: float
    network_bytes: int
    disk_write_bytes: int


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """One lease of a run as it ended, or as it stands."""

    lease_id: str
    step: str
    instance: Instance
    state: str
    detail: str
    totals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a suite."""

    run_id: str
    suite: str
    scale: float
    state: RunState
    started_unix_ms: int
    ended_unix_ms: int | None
    cost: Cost
    leases_total: int
    leases: tuple[LeaseRecord, ...] = field(default=())
    detail: str = ""

    @property
    def leases_ended(self) -> int:
        """How many leases have ended, well or badly."""
        return sum(record.state in ("done", "failed", "revoked") for record in self.leases)
