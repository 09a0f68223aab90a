"""The schedule: nobody measures twice at once, nobody is left out, and light probes stay O(k n)."""

from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.collector.plans import Planner, light_probes_allowed
from cvmprobe.collector.schedule import (
    heavy_ways,
    light_pairs,
    light_ways,
    machine_owners,
    matches,
    path_counts,
    rounds,
    tournament,
    turns_to_cover,
)
from cvmprobe.collector.ways import Peer, Via, through_service, ways_between
from cvmprobe.config.collector import Budgets, Light
from cvmprobe.model.endpoint import Endpoint, Path, PeerAddress, Role
from cvmprobe.suites import load_suite
from cvmprobe.suites.price import cost, lease_cost

COUNTS = st.integers(0, 30)
AMPLE = Budgets(light_operations_per_s=1_000_000, light_bits_per_s=10**12)


def peer(number: int, *, machine: str | None = None, host: str = "10.0.0.1", role: Role = Role.POD) -> Peer:
    return Peer(Endpoint(f"n{number}", role), machine or f"boot-{number}", "start", PeerAddress(host, 4000 + number))


def peers(count: int) -> list[Peer]:
    """As in a local run: one agent on each node, all on the loopback."""
    return [peer(number, host="127.0.0.1") for number in range(count)]


def cluster(count: int) -> list[Peer]:
    """As in Kubernetes: an agent and a peer on each node."""
    return [
        peer(number, host=f"10.0.{number}.{place}", role=role)
        for number in range(count)
        for place, role in enumerate((Role.POD, Role.PEER))
    ]


def every_way(count: int) -> set[tuple[str, str, Path]]:
    """What there is to measure between so many nodes with agent and peer: (source, target, path)."""
    ways = {(f"n{n}/pod", f"n{n}/pod", Path.LOOPBACK) for n in range(count)}
    ways |= {(f"n{n}/pod", f"n{n}/peer", Path.INTRA_NODE) for n in range(count)}
    for one, other in permutations(range(count), 2):
        ways |= {(f"n{one}/pod", f"n{other}/pod", Path.INTER_NODE), (f"n{one}/pod", f"n{other}/peer", Path.SERVICE)}
    return ways


def told(ways) -> list[tuple[str, str, Path]]:
    return [(str(way.source.endpoint), str(way.target.endpoint), way.path) for way in ways]


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


def nodes(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


@given(COUNTS, st.integers(0, 5), st.integers(0, 100))
def test_each_node_aims_at_itself_its_neighbours_and_one_more(count, neighbours, turn):
    pairs = light_pairs(nodes(count), neighbours, turn)
    assert len(pairs) == len(set(pairs)) <= count * (neighbours + 2)
    for one in nodes(count):
        expected = min(count, neighbours + 2)
        assert sum(source == one for source, _ in pairs) == expected
        assert sum(target == one for _, target in pairs) == expected
    assert [source == target for source, target in pairs[:count]] == [True] * count


@given(st.integers(2, 20), st.integers(0, 4), st.integers(0, 100))
def test_turns_cover_every_ordered_pair(count, neighbours, first):
    turns = range(first, first + turns_to_cover(count, neighbours))
    seen = {pair for turn in turns for pair in light_pairs(nodes(count), neighbours, turn)}
    assert seen == set(product(nodes(count), repeat=2))


@given(st.integers(4, 30), st.data())
def test_a_node_that_leaves_moves_only_its_own_neighbours(count, data):
    gone = data.draw(st.sampled_from(nodes(count)))
    ring_before = {pair for pair in light_pairs(nodes(count), 1, 0)[: 2 * count] if gone not in pair}
    after = set(light_pairs([one for one in nodes(count) if one != gone], 2, 0))
    assert len(ring_before - after) <= 2 * 2


@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 20))
def test_turns_of_light_probes_cover_every_way(count, neighbours, first):
    turns = range(first, first + turns_to_cover(count, neighbours))
    each = [told(light_ways(cluster(count), "service", neighbours, turn)) for turn in turns]
    assert {way for turn in each for way in turn} == every_way(count)
    assert all(len(turn) == len(set(turn)) for turn in each)


@given(st.integers(0, 4))
def test_up_to_four_nodes_all_ways_are_measured_at_once_within_the_budget_of_the_manifests(count):
    budgets = Budgets(light_operations_per_s=200, light_bits_per_s=1_000_000)
    plans = Planner(Light(), budgets, Clock(), "service").plans(cluster(count))
    planned = {(str(source), str(p.target), p.target.path) for source, plan in plans.items() for p in plan.probes}
    assert planned == every_way(count)


@given(st.integers(0, 8))
def test_a_run_takes_every_way_once_and_says_how_many_each_path_has(count):
    ways = heavy_ways(cluster(count), "service")
    assert sorted(told(ways)) == sorted(every_way(count))
    paths = [path for *_, path in every_way(count)]
    assert path_counts(ways) == {path: paths.count(path) for path in paths}


def test_disks_of_a_shared_machine_are_measured_once():
    shared = [peer(2, machine="m"), peer(1, machine="m"), peer(3), peer(4, machine="m", role=Role.PEER)]
    assert machine_owners(shared) == [shared[1], shared[2]]


@pytest.mark.parametrize(
    ("source", "target", "path", "host"),
    [
        (peer(1), peer(2), Path.INTER_NODE, "10.0.0.1"),
        (peer(1), peer(2, host="127.0.0.1"), Path.LOOPBACK, "127.0.0.1"),
        (peer(1), peer(2, host="::1"), Path.LOOPBACK, "::1"),
        (peer(1), peer(1), Path.LOOPBACK, "127.0.0.1"),
        (peer(1), peer(1, role=Role.PEER), Path.INTRA_NODE, "10.0.0.1"),
        (peer(1), peer(2, role=Role.PEER), Path.SERVICE, "service"),
        (peer(1, role=Role.HOST), peer(2, role=Role.HOST), Path.HOST, "10.0.0.1"),
    ],
)
def test_the_path_and_the_host_to_dial_follow_from_roles_nodes_and_address(source, target, path, host):
    (way,) = ways_between([source], [target], Via("service", 40))
    assert (way.source, way.target, way.path) == (source, target, path)
    assert way.address == PeerAddress(host, target.address.port, 40 if path is Path.SERVICE else 0)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (peer(1, role=Role.HOST), peer(2)),
        (peer(1, role=Role.PEER), peer(2)),
        (peer(1, role=Role.PEER), peer(2, role=Role.PEER)),
        (peer(1, role=Role.PEER), peer(2, role=Role.HOST)),
    ],
)
def test_other_ways_are_not_measured(source, target):
    assert not ways_between([source], [target], Via("service", 40))


@given(st.integers(1, 300))
def test_each_peer_behind_the_service_is_worth_twenty_dials(count):
    dials = through_service("service", cluster(count)).dials
    assert 20 * count <= dials < 40 * count
    assert through_service("service", peers(count)) is None


def test_few_of_the_peers_that_come_change_the_dials():
    assert len({through_service("service", cluster(count)).dials for count in range(1, 65)}) == 7


def test_without_a_service_nothing_is_measured_through_it():
    assert {way.path for way in heavy_ways(cluster(3), "")} == {Path.LOOPBACK, Path.INTRA_NODE, Path.INTER_NODE}


@given(st.integers(0, 6), st.integers(1, 3), st.booleans())
def test_no_node_and_no_machine_has_two_leases_at_once(count, width, one_machine):
    members = [replace(one, machine="m") if one_machine else one for one in cluster(count)]
    for each in rounds(matches(load_suite("quick"), members, "service"), lambda match: match.occupies, width):
        taken = [{peer.endpoint.node for peer in match.peers} for match in each]
        machines = [{peer.machine for peer in match.peers} for match in each]
        for sets in (taken, machines):
            assert sum(map(len, sets)) == len(set().union(*sets))


@given(st.integers(0, 6), st.integers(1, 3))
def test_a_run_is_every_step_on_every_way_or_disk_and_costs_what_was_said(count, repeats):
    suite = replace(load_suite("quick"), repeats=repeats)
    planned = matches(suite, cluster(count), "service")
    network = [match for match in planned if match.responder]
    assert len(network) == repeats * 2 * len(every_way(count))
    assert len(planned) - len(network) == repeats * 2 * count
    assert {(str(m.initiator.endpoint), str(m.target), m.target.path) for m in network} == every_way(count)
    assert [match.repeat for match in planned] == sorted(match.repeat for match in planned)
    counts = path_counts(heavy_ways(cluster(count), "service"))
    stated = cost(suite, counts, len(machine_owners(cluster(count))))
    assert stated.seconds == pytest.approx(sum(lease_cost(match.step).seconds for match in planned))


class Clock:
    def __init__(self):
        self.ms = 0

    def __call__(self):
        return self.ms


def keys(plans):
    return {(probe.probe_id, probe.key) for plan in plans.values() for probe in plan.probes}


@given(st.integers(0, 8), st.integers(0, 3))
def test_each_light_probe_is_admitted_by_its_target_alone(count, neighbours):
    plans = Planner(Light(neighbours=neighbours), AMPLE, Clock(), "service").plans(cluster(count))
    assert set(plans) == {one.endpoint for one in cluster(count)}
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


def test_without_the_path_a_run_takes_the_one_that_stands_in():
    step = next(step for step in load_suite("constellation-v1.3").steps if step.stand_in)
    suite = replace(load_suite("constellation-v1.3"), steps=(step,))
    apart = cluster(2)
    together = [replace(one, address=PeerAddress("127.0.0.1", 1)) for one in apart if one.endpoint.role is Role.POD]
    assert {match.target.path for match in matches(suite, apart)} == {Path.INTER_NODE}
    assert {match.target.path for match in matches(suite, together)} == {Path.LOOPBACK}


def test_nodes_are_measured_once_for_each_machine():
    planned = matches(replace(load_suite("compute"), repeats=2), cluster(3))
    assert {(str(match.initiator.endpoint), str(match.target), match.responder) for match in planned} == {
        (str(owner.endpoint), "node", None) for owner in machine_owners(cluster(3))
    }
    assert len(planned) == 2 * len(load_suite("compute").steps) * len(machine_owners(cluster(3)))
