"""Who is attached right now, and the way to reach them."""

from collections.abc import Callable
from dataclasses import dataclass

from cvmprobe.collector.ways import Peer
from cvmprobe.model.delivery import Hello, StreamKey
from cvmprobe.model.endpoint import Endpoint
from cvmprobe.wire.handler import CollectorMessage

__all__ = ["Attached", "Roster"]


@dataclass(slots=True, eq=False)
class Attached:
    """One attachment. ``locate`` tells where it is reached now; None where it may not be given probes."""

    stream: StreamKey
    hello: Hello
    locate: Callable[[], Peer | None]
    send: Callable[[CollectorMessage], None]
    heard_seq: int  # highest number the agent has spoken of

    @property
    def endpoint(self) -> Endpoint:
        """Who is attached."""
        return self.stream.endpoint

    @property
    def peer(self) -> Peer | None:
        """Where it is reached now."""
        return self.locate()


class Roster:
    """The newest attachment of each endpoint."""

    def __init__(self) -> None:
        self._attached: dict[Endpoint, Attached] = {}

    def add(self, attached: Attached) -> None:
        """Enter an attachment; it takes the place of an older one of its endpoint."""
        self._attached[attached.endpoint] = attached

    def remove(self, attached: Attached) -> bool:
        """Strike out an attachment; False where a newer one already has its place."""
        if self._attached.get(attached.endpoint) is not attached:
            return False
        del self._attached[attached.endpoint]
        return True

    def get(self, endpoint: Endpoint) -> Attached | None:
        """Return the attachment of ``endpoint``; None where there is none."""
        return self._attached.get(endpoint)

    def of_stream(self, stream: StreamKey) -> Attached | None:
        """Return the attachment of that very start; None where there is none."""
        attached = self._attached.get(stream.endpoint)
        return attached if attached is not None and attached.stream == stream else None

    def peers(self) -> list[Peer]:
        """Return all that may be given probes, in the order of their endpoints."""
        peers = (self._attached[endpoint].peer for endpoint in sorted(self._attached))
        return [peer for peer in peers if peer is not None]

    def peer(self, endpoint: Endpoint) -> Peer | None:
        """Return where an endpoint is now; None where it is not attached, or may not be given probes."""
        attached = self._attached.get(endpoint)
        return None if attached is None else attached.peer

    def send(self, endpoint: Endpoint, message: CollectorMessage) -> bool:
        """Send to one endpoint; False where it is not attached."""
        attached = self._attached.get(endpoint)
        if attached is None:
            return False
        attached.send(message)
        return True

    def broadcast(self, message: CollectorMessage) -> None:
        """Send to all."""
        for attached in self._attached.values():
            attached.send(message)
