"""CPU cost out of totals: per KB or per transaction, beyond the baseline, unknown where it cannot be told."""

import pytest

from cvmprobe.cli.costs import Cost, cost_note, cost_of, cost_table, costs_of_leases
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role
from cvmprobe.model.run import LeaseRecord
from cvmprobe.model.window import Direction, Instance, Probe

STREAM = {
    "sent_bytes": 1024 * 1000,
    "receiver_bytes": 1024 * 1000,
    "cpu_ns": 500_000,
    "receiver_cpu_ns": 2_000_000,
    "node_busy_ns": 5_000_000,
    "node_baseline_ns": 1_000_000,
    "responder_node_busy_ns": 3_000_000,
    "responder_node_baseline_ns": 4_000_000,
}


def test_a_stream_costs_by_the_kb():
    assert cost_of(STREAM) == Cost("KB", 4.0, None, 0.5, 2.0)  # there the baseline was more than all


@pytest.mark.parametrize(("busy_ns", "cost"), [(1_449_000, None), (1_500_000, 0.5), (5_000_000, 4.0)])
def test_a_node_that_cost_less_than_the_threads_on_it_was_too_busy_before(busy_ns, cost):
    assert cost_of({**STREAM, "node_busy_ns": busy_ns}).node_here == cost


def test_round_trips_cost_by_the_transaction():
    assert cost_of({**STREAM, "transactions": 100}) == Cost("transaction", 40.0, None, 5.0, 20.0)


@pytest.mark.parametrize("missing", ["node_baseline_ns", "node_busy_ns"])
def test_what_is_not_known_is_none(missing):
    cost = cost_of({name: value for name, value in STREAM.items() if name != missing})
    assert cost.node_here is None
    assert cost.own_here == 0.5


def test_what_moved_nothing_has_no_cost():
    assert cost_of({}) is None
    assert cost_of({"write_bytes": 5, "cpu_ns": 7}) is None
    assert cost_of({**STREAM, "sent_bytes": 0, "receiver_bytes": 0}) is None


def test_repeats_are_taken_together():
    a, b = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
    leases = [
        LeaseRecord(
            f"l{repeat}",
            "stream",
            Instance(f"l{repeat}", Probe.TCP_STREAM, a, EndpointTarget(b, Path.INTER_NODE), Direction.FORWARD, repeat),
            "done",
            "",
            {**STREAM, "cpu_ns": cpu_ns},
        )
        for repeat, cpu_ns in enumerate((500_000, 1_500_000))
    ]
    costs = costs_of_leases(leases)
    assert [cost.own_here for cost in costs.values()] == [1.0]
    assert cost_table(costs).row_count == 1


def test_a_line_says_per_what():
    assert cost_note(cost_of(STREAM)) == (
        "CPU cost in µs: per KB, node here 4, node there -, own here 0.5, own there 2"
    )
