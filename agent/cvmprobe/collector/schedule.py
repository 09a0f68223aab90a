"""Who measures whom, and when: pure functions from a list of peers to ways, rounds and matches.

Light probes   every node measures the ways within itself, and those to some others: a ring of nodes in hash order,
               of which each aims at the next k, and at one further node that changes every turn:
               k = 1, turn 0    A → A, B, C     turn 1    A → A, B, D     (ring A B C D)
Heavy probes   each node within itself, then a round-robin tournament of the nodes (circle method): one stays, the
               others move on by a place each round, so that everyone meets everyone once; then the same again with
               the sides exchanged. Rounds are cut so that nothing has two leases at once.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cvmprobe.collector.ways import Peer, Via, Way, by_node, through_service, ways_between
from cvmprobe.model.endpoint import NodeTarget, Path, PeerAddress, Role, Target, VolumeTarget
from cvmprobe.model.run import Step, Suite

__all__ = [
    "Match",
    "heavy_ways",
    "light_pairs",
    "light_ways",
    "machine_owners",
    "matches",
    "path_counts",
    "rounds",
    "tournament",
    "turns_to_cover",
]

_T = TypeVar("_T")
_MIN_PLAYERS = 2


@dataclass(frozen=True, slots=True)
class Match:
    """One lease to be: who measures what, for which step of a suite. ``via``: as in ``Way``."""

    step: Step
    repeat: int
    initiator: Peer
    target: Target
    responder: Peer | None = None
    via: Via | None = None

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Initiator, and responder where there is one."""
        return (self.initiator,) if self.responder is None else (self.initiator, self.responder)

    @property
    def address(self) -> PeerAddress | None:
        """What the initiator dials; None where there is nobody to dial."""
        if self.responder is None:
            return None
        return self.responder.address if self.via is None else self.via.address(self.responder)

    @property
    def occupies(self) -> frozenset[tuple[str, str]]:
        """What no other lease may use meanwhile.

        The node, because its agents share its network and their budget; and the machine, because nodes may be
        containers of one machine, whose CPUs and disks two leases would have to share unseen.
        """
        nodes = {("node", peer.endpoint.node) for peer in self.peers}
        return frozenset(nodes | {("machine", peer.machine) for peer in self.peers})


def light_pairs(nodes: Sequence[str], neighbours: int, turn: int) -> list[tuple[str, str]]:
    """Return (source, target) of this turn: each node itself, its neighbours, one more; what is nearest comes first."""
    ring = sorted(nodes, key=lambda node: hashlib.sha256(node.encode()).digest())
    others = len(ring) - 1
    offsets = list(range(min(neighbours, others) + 1))
    if others > neighbours:
        offsets.append(neighbours + 1 + turn % (others - neighbours))
    return [(source, ring[(place + offset) % len(ring)]) for offset in offsets for place, source in enumerate(ring)]


def light_ways(peers: Sequence[Peer], service_host: str, neighbours: int, turn: int) -> list[Way]:
    """Return the ways that light probes measure in this turn, what is nearest first."""
    nodes, service = by_node(peers), through_service(service_host, peers)
    return [
        way
        for source, target in light_pairs(list(nodes), neighbours, turn)
        for way in ways_between(nodes[source], nodes[target], service)
    ]


def turns_to_cover(nodes: int, neighbours: int) -> int:
    """Return the number of turns after which every ordered pair of nodes had its light probes."""
    return max(1, nodes - 1 - neighbours)


def tournament(players: Sequence[_T]) -> list[tuple[_T, _T]]:
    """Return every ordered pair of players once, in an order that lets everyone rest between matches."""
    if len(players) < _MIN_PLAYERS:
        return []
    circle: list[_T | None] = [*players, None] if len(players) % 2 else [*players]
    first_leg: list[tuple[_T, _T]] = []
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        for one, other in zip(circle[:half], reversed(circle[half:]), strict=True):
            if one is not None and other is not None:
                first_leg.append((one, other))
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return first_leg + [(other, one) for one, other in first_leg]


def rounds(items: Iterable[_T], occupies: Callable[[_T], frozenset[Hashable]], width: int) -> list[tuple[_T, ...]]:
    """Cut ``items`` into rounds, in their order: at most ``width`` at once, and nothing occupied twice in a round."""
    result: list[tuple[_T, ...]] = []
    current: list[_T] = []
    taken: set[Hashable] = set()
    for item in items:
        needs = occupies(item)
        if current and (len(current) == width or taken & needs):
            result.append(tuple(current))
            current, taken = [], set()
        current.append(item)
        taken |= needs
    return [*result, tuple(current)] if current else result


def machine_owners(peers: Iterable[Peer]) -> list[Peer]:
    """Return one pod endpoint of each machine: those that share a boot id share its CPUs and disks."""
    owners: dict[str, Peer] = {}
    for peer in sorted(peers, key=lambda peer: peer.endpoint):
        if peer.endpoint.role is Role.POD:
            owners.setdefault(peer.machine, peer)
    return list(owners.values())


def heavy_ways(peers: Sequence[Peer], service_host: str) -> list[Way]:
    """Return all ways in the order in which runs measure them."""
    nodes, service = by_node(peers), through_service(service_host, peers)
    return [
        way
        for source, target in [*((node, node) for node in nodes), *tournament(list(nodes))]
        for way in ways_between(nodes[source], nodes[target], service)
    ]


def path_counts(ways: Iterable[Way]) -> Mapping[Path, int]:
    """Return how many ways each path has."""
    return Counter(way.path for way in ways)


def matches(suite: Suite, peers: Sequence[Peer], service_host: str = "") -> list[Match]:
    """Return every lease of a run in order: repeats apart from each other, phases one after the other."""
    ways = heavy_ways(peers, service_host)
    return [
        match
        for repeat in range(1, suite.repeats + 1)
        for step in suite.steps
        for match in _step_matches(step, repeat, peers, ways)
    ]


def _step_matches(step: Step, repeat: int, peers: Sequence[Peer], ways: Sequence[Way]) -> list[Match]:
    if step.volume is not None:
        return [Match(step, repeat, peer, VolumeTarget(step.volume)) for peer in machine_owners(peers)]
    if step.path is None:
        return [Match(step, repeat, peer, NodeTarget()) for peer in machine_owners(peers)]
    path = step.taken(path_counts(ways))
    return [Match(step, repeat, way.source, way.aim, way.target, way.via) for way in ways if way.path is path]
