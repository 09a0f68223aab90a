"""Who may be given probes, and by which ways one endpoint reaches another: pure functions of the list of peers.

loopback     pod → itself, never leaving its pod; or → a peer whose address is on the loopback (local run)
intra_node   pod → the peer pod of its own node
inter_node   pod → pod of another node
service      pod → peer pod of another node, through the one Service before all peers
host         host → host of another node
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, PeerAddress, Role

__all__ = ["Peer", "Via", "Way", "by_node", "through_service", "ways_between"]

_DIALS_EACH: Final = 20  # for each endpoint behind a Service: all miss the wanted one once in 500 million sessions


@dataclass(frozen=True, slots=True)
class Peer:
    """An attached endpoint that may be given probes. Peers of one ``machine`` (boot id) share its CPUs and disks."""

    endpoint: Endpoint
    machine: str
    start_id: str
    address: PeerAddress

    @property
    def is_on_loopback(self) -> bool:
        """Whether it is reached without leaving the machine."""
        try:
            return ipaddress.ip_address(self.address.host).is_loopback
        except ValueError:  # a name
            return self.address.host == "localhost"


@dataclass(frozen=True, slots=True)
class Via:
    """A host that is dialed in place of the target's own; ``dials`` as in ``PeerAddress``."""

    host: str
    dials: int = 0

    def address(self, target: Peer) -> PeerAddress:
        """Return what to dial for ``target``."""
        return PeerAddress(self.host, target.address.port, self.dials)


_LOOPBACK: Final = Via("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Way:
    """How ``source`` reaches ``target``; ``via`` None: at the target's own address."""

    source: Peer
    target: Peer
    path: Path
    via: Via | None = None

    @property
    def aim(self) -> EndpointTarget:
        """The target as the source aims at it."""
        return EndpointTarget(self.target.endpoint, self.path)

    @property
    def address(self) -> PeerAddress:
        """What the source dials."""
        return self.target.address if self.via is None else self.via.address(self.target)


def by_node(peers: Iterable[Peer]) -> dict[str, list[Peer]]:
    """Return the peers of each node, in the order of their endpoints."""
    nodes: dict[str, list[Peer]] = {}
    for peer in sorted(peers, key=lambda peer: peer.endpoint):
        nodes.setdefault(peer.endpoint.node, []).append(peer)
    return nodes


def through_service(host: str, peers: Iterable[Peer]) -> Via | None:
    """Return the way through the Service before all peers; None where there is no such Service.

    Dials are allowed for a power of two of peers, so that not every peer that comes changes all plans.
    """
    behind = sum(peer.endpoint.role is Role.PEER for peer in peers)
    return Via(host, _DIALS_EACH << (behind - 1).bit_length()) if host and behind else None


def ways_between(sources: Iterable[Peer], targets: Sequence[Peer], service: Via | None = None) -> list[Way]:
    """Return the ways from the peers of one node to those of another, or of the same.

    ``service`` leads to all peers; without one nothing is measured through it.
    """
    return [way for source in sources for target in targets for way in _ways(source, target, service)]


def _ways(source: Peer, target: Peer, service: Via | None) -> Iterator[Way]:
    roles = source.endpoint.role, target.endpoint.role
    near = source.endpoint.node == target.endpoint.node
    if roles == (Role.POD, Role.POD) and near:
        if not target.is_on_loopback:  # else its neighbours on the loopback show the same
            yield Way(source, target, Path.LOOPBACK, _LOOPBACK)
    elif roles == (Role.POD, Role.POD):
        yield Way(source, target, Path.LOOPBACK if target.is_on_loopback else Path.INTER_NODE)
    elif roles == (Role.POD, Role.PEER) and near:
        yield Way(source, target, Path.INTRA_NODE)
    elif roles == (Role.POD, Role.PEER) and service is not None:
        yield Way(source, target, Path.SERVICE, service)
    elif roles == (Role.HOST, Role.HOST) and not near:
        yield Way(source, target, Path.HOST)
