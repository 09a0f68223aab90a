"""What travels between an agent and the collector besides assignments, and how none of it gets lost unseen."""

from dataclasses import dataclass, field

from cvmprobe.model.endpoint import Endpoint
from cvmprobe.model.environment import Environment
from cvmprobe.model.window import Window

__all__ = ["Ack", "Batch", "Bye", "Gap", "Heartbeat", "Hello", "Loss", "Preview", "StreamKey", "Welcome"]


@dataclass(frozen=True, slots=True, order=True)
class StreamKey:
    """The numbered batches of one start of one agent. ``cluster`` is filled in by the collector."""

    cluster: str
    endpoint: Endpoint
    boot_id: str
    start_id: str


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent introduces itself; first message of every attachment."""

    version: str
    endpoint: Endpoint
    boot_id: str
    start_id: str
    responder_port: int
    probe_service_port: int  # on the agent's own loopback; 0: it does not serve
    environment: Environment


@dataclass(frozen=True, slots=True)
class Welcome:
    """The collector's answer: what it has of this start, and the agent's serving certificate."""

    stored_seq: int  # highest contiguous batch of this start that is committed; 0: none
    heartbeat_ms: int
    certificate_pem: bytes = b""
    private_key_pem: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows under one number. Numbers of a start begin at 1 and have no holes."""

    seq: int
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """Batches an agent had numbered and had to give up before they were acked."""

    first_seq: int
    last_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A live look at a heavy probe: never numbered, never stored."""

    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """All batches up to ``seq`` are committed; the agent may forget them."""

    seq: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The collector is there; leases may go on."""


@dataclass(frozen=True, slots=True)
class Bye:
    """An agent ends in good order; ``last_seq`` is the last number it gave out."""

    last_seq: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Batches that are not, or not yet, in the store. ``lost`` is None while the count is unknown."""

    stream: StreamKey
    first_seq: int
    last_seq: int | None  # None: open, the stream ended without a Bye
    reason: str
    since_unix_ms: int

    @property
    def lost(self) -> int | None:
        """Number of batches missing; None where nobody can know."""
        return None if self.last_seq is None else self.last_seq - self.first_seq + 1
