"""Who measures, what it aims at, and how the two are joined."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Endpoint", "EndpointTarget", "NodeTarget", "Path", "PeerAddress", "Role", "Target", "VolumeTarget"]


class Role(StrEnum):
    """What an endpoint is on its node."""

    POD = "pod"
    PEER = "peer"
    HOST = "host"
    VOLUME = "volume"
    API = "api"


class Path(StrEnum):
    """How two endpoints are joined."""

    LOOPBACK = "loopback"
    INTRA_NODE = "intra_node"
    INTER_NODE = "inter_node"
    SERVICE = "service"
    HOST = "host"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One agent process: a node and its role there."""

    node: str
    role: Role

    def __str__(self) -> str:
        return f"{self.node}/{self.role}"

    @property
    def server_name(self) -> str:
        """Name that the certificate of its own ProbeService bears, signed by its collector's CA."""
        return f"{self.role}.{self.node}.agent.cvmprobe"


@dataclass(frozen=True, slots=True, order=True)
class EndpointTarget:
    """Another endpoint, over a path."""

    endpoint: Endpoint
    path: Path

    def __str__(self) -> str:
        return str(self.endpoint)


@dataclass(frozen=True, slots=True, order=True)
class VolumeTarget:
    """A directory the measuring endpoint may write to, by its configured name."""

    volume: str

    def __str__(self) -> str:
        return f"volume:{self.volume}"


@dataclass(frozen=True, slots=True, order=True)
class NodeTarget:
    """The node of the measuring endpoint itself: its processor, its memory, its kernel."""

    def __str__(self) -> str:
        return "node"


Target = EndpointTarget | VolumeTarget | NodeTarget


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where an endpoint's responder listens. Only the collector hands these out.

    ``dials`` is how often to dial, at the most, an address that other endpoints answer at, too; 0: it alone does.
    """

    host: str
    port: int
    dials: int = 0

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
