"""Light plans: which pairs probe each other now, with keys that live a day at the most, inside the budgets."""

import logging
import secrets
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cvmprobe.collector.schedule import light_ways, turns_to_cover
from cvmprobe.collector.ways import Peer, Way, by_node
from cvmprobe.config.collector import Budgets, Light
from cvmprobe.model.assignment import Admission, LightProbe, Plan
from cvmprobe.model.endpoint import Endpoint, EndpointTarget
from cvmprobe.model.window import Probe

__all__ = ["Planner", "light_probes_allowed"]

_LOG = logging.getLogger(__name__)
_KEY_LIFE_MS = 24 * 3_600_000
_WIRE_BITS_PER_OPERATION = 8 * 4 * 90  # request, reply and their acknowledgements, 1 byte of payload, all headers


@dataclass(frozen=True, slots=True)
class _PairKey:
    probe_id: str
    key: bytes = field(repr=False)
    made_ms: int


def light_probes_allowed(light: Light, budgets: Budgets) -> int:
    """Return how many light probes the budgets let each node initiate."""
    by_operations = budgets.light_operations_per_s // light.rate_per_s
    by_bits = budgets.light_bits_per_s // (light.rate_per_s * _WIRE_BITS_PER_OPERATION)
    return min(by_operations, by_bits)


class Planner:
    """Makes the plan of every peer.

    A pair keeps its probe id and key from plan to plan; a key is dead after 24 hours and replaced after 12, so
    that light probes outlive the collector by half a day at least.
    """

    def __init__(self, light: Light, budgets: Budgets, now_ms: Callable[[], int], service_host: str = "") -> None:
        self._light = light
        self._service_host = service_host
        self._allowed = light_probes_allowed(light, budgets)
        self._now_ms = now_ms
        self._keys: dict[tuple[Endpoint, EndpointTarget], _PairKey] = {}
        self._said = ""

    def plans(self, peers: Sequence[Peer]) -> dict[Endpoint, Plan]:
        """Return the plan of each peer for now; a peer with nothing to do gets an empty one."""
        probes: dict[Endpoint, list[LightProbe]] = {peer.endpoint: [] for peer in peers}
        admissions: dict[Endpoint, list[Admission]] = {peer.endpoint: [] for peer in peers}
        turn = self._now_ms() // self._light.rotate_ms
        kept: dict[tuple[Endpoint, EndpointTarget], _PairKey] = {}
        initiated: Counter[str] = Counter()
        ways = light_ways(peers, self._service_host, self._light.neighbours, turn)
        for way in ways:
            source, aim = way.source.endpoint, way.aim
            if initiated[source.node] == self._allowed:
                continue
            initiated[source.node] += 1
            pair = kept[source, aim] = self._key(source, aim)
            probes[source].append(self._probe(pair, way))
            admissions[way.target.endpoint].append(Admission(pair.probe_id, Probe.TCP_RR, pair.key))
        self._keys = kept
        self._say(len(by_node(peers)), len(kept), len(ways))
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

    def _say(self, nodes: int, planned: int, wanted: int) -> None:
        """Tell, at every change, how many light probes run, when they cover all pairs, and what is left out."""
        turns = turns_to_cover(nodes, self._light.neighbours)
        within_s = (turns if turns > 1 else 0) * self._light.rotate_ms // 1_000
        text = f"light probes: {planned} on {nodes} nodes, "
        text += f"every pair in turn within {within_s} s" if within_s else "every pair all the time"
        if planned < wanted:
            text += (
                f"; {wanted - planned} are left out: budgets light_operations_per_s and light_bits_per_s allow "
                f"{self._allowed} on each node"
            )
        if text != self._said:
            self._said = text
            _LOG.log(logging.INFO if planned == wanted else logging.WARNING, "%s", text)

    def _probe(self, pair: _PairKey, way: Way) -> LightProbe:
        return LightProbe(
            probe_id=pair.probe_id,
            probe=Probe.TCP_RR,
            target=way.aim,
            parameters={"rate_per_s": str(self._light.rate_per_s)},
            interval_ms=self._light.interval_ms,
            peer=way.address,
            key=pair.key,
        )
