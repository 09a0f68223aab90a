"""Who measures whom, and when: pure functions from a list of peers to pairs, rounds and matches.

Light probes   a ring in hash order; each endpoint aims at the next k, and at one further peer that changes
               every turn:  k = 1, turn 0    A → B, C     turn 1    A → B, D     (ring A B C D)
Heavy probes   a round-robin tournament (circle method): one player stays, the others move on by a place each
               round, so that everyone meets everyone once; then the same again with the sides exchanged.
               Rounds are cut so that no machine has two leases at once.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cvmprobe.collector.discovery import Peer, path_between, target_of
from cvmprobe.model.endpoint import Path, Role, Target, VolumeTarget
from cvmprobe.model.run import Step, Suite

__all__ = [
    "Match",
    "disk_owners",
    "light_pairs",
    "matches",
    "pair_counts",
    "rounds",
    "tournament",
    "turns_to_cover",
]

_T = TypeVar("_T")
_MIN_PLAYERS = 2


@dataclass(frozen=True, slots=True)
class Match:
    """One lease to be: who measures what, for which step of a suite."""

    step: Step
    repeat: int
    initiator: Peer
    target: Target
    responder: Peer | None = None

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Initiator, and responder where there is one."""
        return (self.initiator,) if self.responder is None else (self.initiator, self.responder)

    @property
    def machines(self) -> frozenset[str]:
        """Machines that have no other lease meanwhile."""
        return frozenset(peer.machine for peer in self.peers)


def light_pairs(peers: Sequence[Peer], neighbours: int, turn: int) -> list[tuple[Peer, Peer]]:
    """Return (source, target) of all light probes in this turn: at most ``neighbours`` + 1 from each peer."""
    ring = sorted(peers, key=_place)
    others = len(ring) - 1
    offsets = list(range(1, min(neighbours, others) + 1))
    if others > neighbours:
        offsets.append(neighbours + 1 + turn % (others - neighbours))
    return [(source, ring[(place + offset) % len(ring)]) for place, source in enumerate(ring) for offset in offsets]


def turns_to_cover(peers: int, neighbours: int) -> int:
    """Return the number of turns after which every ordered pair had a light probe."""
    return max(1, peers - 1 - neighbours)


def _place(peer: Peer) -> bytes:
    return hashlib.sha256(str(peer.endpoint).encode()).digest()


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


def disk_owners(peers: Iterable[Peer]) -> list[Peer]:
    """Return one pod endpoint of each machine: those that share a boot id share its disks."""
    owners: dict[str, Peer] = {}
    for peer in sorted(peers, key=lambda peer: peer.endpoint):
        if peer.endpoint.role is Role.POD:
            owners.setdefault(peer.machine, peer)
    return list(owners.values())


def pair_counts(peers: Sequence[Peer]) -> dict[Path, int]:
    """Return how many ordered pairs each path has."""
    counts: dict[Path, int] = {}
    for source, target in tournament(peers):
        path = path_between(source, target)
        if path is not None:
            counts[path] = counts.get(path, 0) + 1
    return counts


def matches(suite: Suite, peers: Sequence[Peer]) -> list[Match]:
    """Return every lease of a run in order: repeats apart from each other, phases one after the other."""
    ordered = sorted(peers, key=lambda peer: peer.endpoint)
    return [
        match
        for repeat in range(1, suite.repeats + 1)
        for step in suite.steps
        for match in _step_matches(step, repeat, ordered)
    ]


def _step_matches(step: Step, repeat: int, peers: Sequence[Peer]) -> list[Match]:
    if step.volume is not None:
        return [Match(step, repeat, peer, VolumeTarget(step.volume)) for peer in disk_owners(peers)]
    return [
        Match(step, repeat, source, aim, target)
        for source, target in tournament(peers)
        if (aim := target_of(source, target)) is not None and aim.path is step.path
    ]
