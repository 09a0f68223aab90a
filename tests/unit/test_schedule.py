"""The schedule: nobody measures twice at once, nobody is left out, and light probes stay O(k n)."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.collector.discovery import Peer, StaticDiscovery, path_between
from cvmprobe.collector.plans import Planner, light_probes_allowed
from cvmprobe.collector.schedule import (
    disk_owners,
    light_pairs,
    matches,
    pair_counts,
    rounds,
    tournament,
    turns_to_cover,
)
from cvmprobe.config.collector import Budgets, Light
from cvmprobe.model.delivery import Hello
from cvmprobe.model.endpoint import Endpoint, Path, PeerAddress, Role
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.suites import load_suite
from cvmprobe.suites.price import cost, lease_cost

COUNTS = st.integers(0, 30)
AMPLE = Budgets(light_operations_per_s=1_000_000, light_bits_per_s=10**12)


def peer(number: int, *, machine: str | None = None, host: str = "10.0.0.1", role: Role = Role.POD) -> Peer:
    return Peer(Endpoint(f"n{number}", role), machine or f"boot-{number}", "start", PeerAddress(host, 4000 + number))


def peers(count: int) -> list[Peer]:
    return [peer(number) for number in range(count)]


@given(COUNTS)
def test_a_tournament_has_every_ordered_pair_once(count):
    assert sorted(tournament(range(count))) == sorted(permutations(range(count), 2))


@given(COUNTS)
def test_a_tournament_with_room_for_all_needs_no_more_rounds_than_the_circle(count):
    pairs = tournament(range(count))
    played = rounds(pairs, frozenset, width=max(1, count))
    assert [pair for each in played for pair in each] == pairs
    circle = count - 1 if count % 2 == 0 else count
    assert len(played) <= 2 * circle if count > 1 else not played
    for each in played:
        players = [player for pair in each for player in pair]
        assert len(players) == len(set(players))


@given(st.lists(st.frozensets(st.integers(0, 5), min_size=1, max_size=3)), st.integers(1, 4))
def test_rounds_keep_the_order_the_width_and_occupy_nothing_twice(items, width):
    cut = rounds(items, lambda item: item, width)
    assert [item for each in cut for item in each] == items
    for each in cut:
        assert 1 <= len(each) <= width
        assert sum(len(item) for item in each) == len(frozenset().union(*each))


@given(COUNTS, st.integers(0, 5), st.integers(0, 100))
def test_light_probes_are_at_most_one_more_than_the_neighbours(count, neighbours, turn):
    pairs = light_pairs(peers(count), neighbours, turn)
    assert len(pairs) == len(set(pairs)) <= count * (neighbours + 1)
    assert all(source != target for source, target in pairs)
    for one in peers(count):
        expected = min(count - 1, neighbours + 1)
        assert sum(source == one for source, _ in pairs) == expected
        assert sum(target == one for _, target in pairs) == expected


@given(st.integers(2, 20), st.integers(0, 4), st.integers(0, 100))
def test_turns_cover_every_ordered_pair(count, neighbours, first):
    turns = turns_to_cover(count, neighbours)
    seen = {pair for turn in range(first, first + turns) for pair in light_pairs(peers(count), neighbours, turn)}
    assert seen == set(permutations(peers(count), 2))


@given(st.integers(4, 30), st.data())
def test_a_node_that_leaves_moves_only_its_own_neighbours(count, data):
    gone = data.draw(st.sampled_from(peers(count)))
    before = {pair for pair in light_pairs(peers(count), 2, 0) if gone not in pair}
    ring_before = {pair for pair in before if pair in set(light_pairs(peers(count), 1, 0))}
    after = set(light_pairs([one for one in peers(count) if one != gone], 2, 0))
    assert len(ring_before - after) <= 2 * 2


def test_disks_of_a_shared_machine_are_measured_once():
    shared = [peer(2, machine="m"), peer(1, machine="m"), peer(3), peer(4, machine="m", role=Role.PEER)]
    assert disk_owners(shared) == [shared[1], shared[2]]


@pytest.mark.parametrize(
    ("source", "target", "path"),
    [
        (peer(1), peer(2), Path.INTER_NODE),
        (peer(1), peer(2, host="127.0.0.1"), Path.LOOPBACK),
        (peer(1), peer(2, host="::1"), Path.LOOPBACK),
        (peer(1), peer(1, role=Role.PEER), Path.INTRA_NODE),
        (peer(1, role=Role.HOST), peer(2, role=Role.HOST), Path.HOST),
        (peer(1, role=Role.HOST), peer(2), None),
        (peer(1), peer(2, role=Role.PEER), None),
        (peer(1), peer(1), None),
    ],
)
def test_the_path_follows_from_roles_nodes_and_address(source, target, path):
    assert path_between(source, target) is path


@given(st.integers(0, 6), st.integers(1, 3))
def test_a_run_is_every_step_on_every_pair_or_disk_and_costs_what_was_said(count, repeats):
    suite = replace(load_suite("quick"), repeats=repeats)
    planned = matches(suite, peers(count))
    network = [match for match in planned if match.responder]
    assert len(network) == repeats * 2 * len(list(permutations(range(count), 2)))
    assert len(planned) - len(network) == repeats * 2 * count
    assert {match.target.path for match in network} <= {Path.INTER_NODE}
    assert [match.repeat for match in planned] == sorted(match.repeat for match in planned)
    stated = cost(suite, pair_counts(peers(count)), len(disk_owners(peers(count))))
    assert stated.seconds == pytest.approx(sum(lease_cost(match.step).seconds for match in planned))


def test_static_discovery_knows_only_the_nodes_it_was_told():
    environment = Environment((), TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ()))
    hello = Hello("1", Endpoint("n1", Role.POD), "boot", "start", 4711, 0, environment)
    assert StaticDiscovery({}).peer(hello) is None
    found = StaticDiscovery({"n1": "10.1.1.1"}).peer(hello)
    assert found == Peer(hello.endpoint, "boot", "start", PeerAddress("10.1.1.1", 4711))


class Clock:
    def __init__(self):
        self.ms = 0

    def __call__(self):
        return self.ms


def keys(plans):
    return {(probe.probe_id, probe.key) for plan in plans.values() for probe in plan.probes}


@given(st.integers(0, 8), st.integers(0, 3))
def test_each_light_probe_is_admitted_by_its_target_alone(count, neighbours):
    plans = Planner(Light(neighbours=neighbours), AMPLE, Clock()).plans(peers(count))
    assert set(plans) == {one.endpoint for one in peers(count)}
    asked = sorted(
        (probe.target.endpoint, probe.probe_id, probe.key) for plan in plans.values() for probe in plan.probes
    )
    admitted = sorted(
        (endpoint, admission.probe_id, admission.key)
        for endpoint, plan in plans.items()
        for admission in plan.admissions
    )
    assert asked == admitted
    assert len({key for _, _, key in asked}) == len(asked)
    assert all(len(key) == 32 for _, _, key in asked)


def test_pair_keys_stay_from_plan_to_plan_and_are_renewed_before_they_die():
    clock = Clock()
    planner = Planner(Light(neighbours=1), AMPLE, clock)
    first = planner.plans(peers(2))
    clock.ms += 11 * 3_600_000
    later = planner.plans(peers(2))
    assert keys(later) == keys(first)
    assert {plan.valid_for_ms for plan in later.values()} == {13 * 3_600_000}
    clock.ms += 3_600_000
    renewed = planner.plans(peers(2))
    assert not {key for _, key in keys(renewed)} & {key for _, key in keys(first)}
    assert {plan.valid_for_ms for plan in renewed.values()} == {24 * 3_600_000}


def test_no_budget_allows_no_light_probe_and_a_small_one_few():
    light = Light(neighbours=2)
    assert light_probes_allowed(light, Budgets()) == 0
    assert light_probes_allowed(light, Budgets(light_operations_per_s=200, light_bits_per_s=0)) == 0
    assert light_probes_allowed(light, Budgets(light_operations_per_s=200, light_bits_per_s=1_000_000)) >= 3
    tight = Budgets(light_operations_per_s=19, light_bits_per_s=10**12)
    plans = Planner(light, tight, Clock()).plans(peers(6))
    assert {len(plan.probes) for plan in plans.values()} == {1}
    assert all(not plan.probes for plan in Planner(light, Budgets(), Clock()).plans(peers(6)).values())
