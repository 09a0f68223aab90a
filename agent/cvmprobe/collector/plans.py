"""Light plans: which pairs probe each other now, with keys that live a day at the most, inside the budgets."""

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cvmprobe.collector.discovery import Peer, target_of
from cvmprobe.collector.schedule import light_pairs
from cvmprobe.config.collector import Budgets, Light
from cvmprobe.model.assignment import Admission, LightProbe, Plan
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Role
from cvmprobe.model.window import Probe

__all__ = ["Planner", "light_probes_allowed"]

_KEY_LIFE_MS = 24 * 3_600_000
_WIRE_BITS_PER_OPERATION = 8 * 4 * 90  # request, reply and their acknowledgements, 1 byte of payload, all headers


@dataclass(frozen=True, slots=True)
class _PairKey:
    probe_id: str
    key: bytes = field(repr=False)
    made_ms: int


def light_probes_allowed(light: Light, budgets: Budgets) -> int:
    """Return how many light probes the budgets let each endpoint initiate."""
    by_operations = budgets.light_operations_per_s // light.rate_per_s
    by_bits = budgets.light_bits_per_s // (light.rate_per_s * _WIRE_BITS_PER_OPERATION)
    return min(by_operations, by_bits)


class Planner:
    """Makes the plan of every peer.

    A pair keeps its probe id and key from plan to plan; a key is dead after 24 hours and replaced after 12, so
    that light probes outlive the collector by half a day at least.
    """

    def __init__(self, light: Light, budgets: Budgets, now_ms: Callable[[], int]) -> None:
        self._light = light
        self._allowed = light_probes_allowed(light, budgets)
        self._now_ms = now_ms
        self._keys: dict[tuple[Endpoint, EndpointTarget], _PairKey] = {}

    def plans(self, peers: Sequence[Peer]) -> dict[Endpoint, Plan]:
        """Return the plan of each peer for now; a peer with nothing to do gets an empty one."""
        probes: dict[Endpoint, list[LightProbe]] = {peer.endpoint: [] for peer in peers}
        admissions: dict[Endpoint, list[Admission]] = {peer.endpoint: [] for peer in peers}
        turn = self._now_ms() // self._light.rotate_ms
        kept: dict[tuple[Endpoint, EndpointTarget], _PairKey] = {}
        pods = [peer for peer in peers if peer.endpoint.role is Role.POD]
        for source, target in light_pairs(pods, self._light.neighbours, turn):
            aim = target_of(source, target)
            if aim is None or len(probes[source.endpoint]) == self._allowed:
                continue
            pair = kept[source.endpoint, aim] = self._key(source.endpoint, aim)
            probes[source.endpoint].append(self._probe(pair, aim, target))
            admissions[target.endpoint].append(Admission(pair.probe_id, Probe.TCP_RR, pair.key))
        self._keys = kept
        oldest_ms = min((pair.made_ms for pair in kept.values()), default=self._now_ms())
        return {
            peer.endpoint: Plan(
                plan_id=uuid.uuid4().hex,
                valid_for_ms=oldest_ms + _KEY_LIFE_MS - self._now_ms(),
                probes=tuple(probes[peer.endpoint]),
                admissions=tuple(admissions[peer.endpoint]),
            )
            for peer in peers
        }

    def _key(self, source: Endpoint, aim: EndpointTarget) -> _PairKey:
        held = self._keys.get((source, aim))
        if held is not None and self._now_ms() - held.made_ms < _KEY_LIFE_MS // 2:
            return held
        return _PairKey(uuid.uuid4().hex, secrets.token_bytes(32), self._now_ms())

    def _probe(self, pair: _PairKey, aim: EndpointTarget, target: Peer) -> LightProbe:
        return LightProbe(
            probe_id=pair.probe_id,
            probe=Probe.TCP_RR,
            target=aim,
            parameters={"rate_per_s": str(self._light.rate_per_s)},
            interval_ms=self._light.interval_ms,
            peer=target.address,
            key=pair.key,
        )
