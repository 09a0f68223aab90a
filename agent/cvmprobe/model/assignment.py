"""What an agent is told to do: the light plan it keeps running, and leases for heavy probes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cvmprobe.model.endpoint import Endpoint, PeerAddress, Target
from cvmprobe.model.window import Direction, Probe

__all__ = ["Admission", "Lease", "LeaseReport", "LeaseState", "LightProbe", "Plan", "Revoke", "Side"]


class Side(StrEnum):
    """Which end of a lease an agent holds."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


class LeaseState(StrEnum):
    """How far an agent is with a lease. ``armed``, ``running`` are passing; the rest end it."""

    ARMED = "armed"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REVOKED = "revoked"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from this lease."""
        return self in (LeaseState.DONE, LeaseState.FAILED, LeaseState.REVOKED)


@dataclass(frozen=True, slots=True)
class LightProbe:
    """One continuous probe of a plan. ``probe_id`` names its session to the peer."""

    probe_id: str
    probe: Probe
    target: Target
    parameters: Mapping[str, str]
    interval_ms: int
    peer: PeerAddress | None = None
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Admission:
    """Whom an agent's responder lets in for light probes: a session id and its pair key."""

    probe_id: str
    probe: Probe
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """All light probes of one agent; replaces the plan before it."""

    plan_id: str
    valid_for_ms: int  # from its receipt; keys are dead after it
    probes: tuple[LightProbe, ...] = ()
    admissions: tuple[Admission, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to run one heavy probe once. Held by both ends; deadline and byte cap always bind."""

    lease_id: str
    run_id: str
    side: Side
    probe: Probe
    source: Endpoint
    target: Target
    direction: Direction
    repeat: int
    parameters: Mapping[str, str]
    interval_ms: int
    duration_ms: int  # of the measurement itself, warm-up included
    valid_for_ms: int  # from its receipt; longer than the duration by arming, preparation and drain
    max_bytes: int  # of payload, or of disk writes; 0 allows none
    raw_samples: bool = False
    peer: PeerAddress | None = None  # the initiator's way to the responder
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """How far an agent is with a lease.

    ``last_seq`` is the last batch that holds a window of it (0: none). ``totals`` are whole-connection
    counters of both ends, read apart from the windows, so that the sum of the windows can be held
    against them; ``detail`` says in one line why it failed.
    """

    lease_id: str
    side: Side
    state: LeaseState
    detail: str = ""
    last_seq: int = 0
    totals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revoke:
    """Stop a lease at once; what it measured so far is cut."""

    lease_id: str
    reason: str
