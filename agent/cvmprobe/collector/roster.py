"""Who is attached right now, and the way to reach them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cvmprobe.collector.ways import Peer
from cvmprobe.model.delivery import Hello, StreamKey
from cvmprobe.model.endpoint import Endpoint
from cvmprobe.wire.handler import CollectorMessage

__all__ = ["Attached", "Roster"]

_LINGER_S: Final = 10.0  # a connection that broke is made anew by then, and light probes went on meanwhile


@dataclass(slots=True, eq=False)
class Attached:
    """One attachment. ``locate`` tells where it is reached now; None where it may not be given probes."""

    stream: StreamKey
    hello: Hello
    locate: Callable[[], Peer | None]
    send: Callable[[CollectorMessage], None]
    heard_seq: int  # highest number the agent has spoken of
    declared: int = 0  # losses so far

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

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._attached: dict[Endpoint, Attached] = {}
        self._left: dict[Endpoint, tuple[Attached, float]] = {}

    def add(self, attached: Attached) -> None:
        """Enter an attachment; it takes the place of an older one of its endpoint."""
        self._attached[attached.endpoint] = attached
        self._left.pop(attached.endpoint, None)

    def remove(self, attached: Attached, *, may_return: bool) -> bool:
        """Strike out an attachment; False where a newer one already has its place."""
        if self._attached.get(attached.endpoint) is not attached:
            return False
        del self._attached[attached.endpoint]
        if may_return:
            self._left[attached.endpoint] = attached, self._monotonic_s()
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
        return _peers(self._attached)

    def lasting_peers(self) -> list[Peer]:
        """Return the same, and those whose connection broke a moment ago: nobody need stop probing them for that."""
        now_s = self._monotonic_s()
        self._left = {one: left for one, left in self._left.items() if now_s - left[1] < _LINGER_S}
        return _peers({one: attached for one, (attached, _) in self._left.items()} | self._attached)

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


def _peers(attached: Mapping[Endpoint, Attached]) -> list[Peer]:
    peers = (attached[endpoint].peer for endpoint in sorted(attached))
    return [peer for peer in peers if peer is not None]
