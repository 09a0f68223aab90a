"""One session between two endpoints, as the one that dials knows it."""

from dataclasses import dataclass, field

from cvmprobe.model.endpoint import PeerAddress

__all__ = ["Session"]


@dataclass(frozen=True, slots=True)
class Session:
    """Whom to dial, how to prove that one may, and how many bytes of payload it may carry; 0 allows none."""

    peer: PeerAddress
    session_id: bytes
    key: bytes = field(repr=False)
    max_bytes: int
