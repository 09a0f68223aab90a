"""From windows to verdicts: what is pooled, what is refused, and what is said when there is too little."""

import random
import re
from dataclasses import replace

import pytest

from cvmprobe.analysis import MIN_REPEATS, Side, Verdict, compare, series
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, NodeTarget, Path, Role
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe, Window

A, B, C = (Endpoint(name, Role.POD) for name in "abc")
HERE = {"kernel": "6.18", "scale": "1"}


def window(instance, *, counters=None, histograms=None, **changes):
    made = Window(instance, 1, 10**9, Phase.STEADY, counters or {}, histograms or {}, {"engine": "tcp_stream"})
    return replace(made, **changes)


def stream(repeat, megabytes, *, pair=(A, B), windows=4, engine="tcp_stream", **parameters):
    """Steady windows of one lease, of so many MB a second."""
    lease = f"{pair[0]}-{pair[1]}-{repeat}"
    target = EndpointTarget(pair[1], Path.INTER_NODE)
    instance = Instance(lease, Probe.TCP_STREAM, pair[0], target, Direction.FORWARD, repeat, parameters)
    counters = {"receiver_bytes": round(megabytes * 1e6), "sent_bytes": 1}
    return [window(instance, counters=counters, facts={"engine": engine}) for _ in range(windows)]


def run_of(windows, run_id="r"):
    instances = {one.instance.assignment_id: one.instance for one in windows}
    leases = tuple(LeaseRecord(key, "stream", instance, "done", "", {}) for key, instance in instances.items())
    return Run(run_id, "quick", 1.0, RunState.DONE, 0, 1, Cost(1, 1, 1), len(leases), leases)


def side(windows, **conditions):
    return Side(series(windows, [run_of(windows)]), HERE | conditions)


def streams(mean, *, seed, repeats=5, **changes):
    chance = random.Random(seed)
    return [
        one
        for repeat in range(1, repeats + 1)
        for one in stream(repeat, mean * chance.lognormvariate(0, 0.005), **changes)
    ]


def judged(before, after, **options):
    rows = compare(before, after, min_effect=0.02, **options)
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(
    ("now", "verdict"), [(90, Verdict.WORSE), (110, Verdict.BETTER), (100, Verdict.SAME), (102, Verdict.UNDECIDED)]
)
def test_more_throughput_is_better(now, verdict):
    row = judged(side(streams(100, seed=1)), side(streams(now, seed=2)))
    assert row.verdict is verdict
    assert row.repeats == (5, 5)
    assert row.contrast.ratio == pytest.approx(now / 100, rel=0.01)
    assert row.before == pytest.approx(100e6, rel=0.01)
    assert row.loss == pytest.approx(1 - now / 100, abs=0.01)
    assert not row.partial


def compute(repeat, unit_ns):
    instance = Instance(f"c{repeat}", Probe.COMPUTE, A, NodeTarget(), Direction.NONE, repeat, {"kernel": "integer"})
    value = round(unit_ns * 1e6)
    histogram = Histogram(buckets={1: 10}, sum=10 * value, sum_squares=10 * value**2)
    return [window(instance, histograms={"unit_fs": histogram}, facts={"engine": "integer"})]


def test_less_time_is_better():
    chance = random.Random(1)
    before, slower = (
        [one for repeat in range(1, 7) for one in compute(repeat, mean * chance.lognormvariate(0, 0.005))]
        for mean in (2.0, 2.2)
    )
    row = judged(side(before), side(slower))
    assert row.verdict is Verdict.WORSE
    assert row.loss == pytest.approx(0.1, abs=0.01)
    assert judged(side(slower), side(before)).verdict is Verdict.BETTER


def rr(repeat, scale):
    instance = Instance(f"r{repeat}", Probe.TCP_RR, A, EndpointTarget(B, Path.LOOPBACK), Direction.FORWARD, repeat)
    values = {3000 + scale + i: 40 for i in range(-20, 21)}
    return [window(instance, counters={"transactions": 7}, histograms={"latency_ns": Histogram(buckets=values, sum=1)})]


def test_latencies_are_compared_by_the_quantiles_that_each_repeat_carries():
    before, after = ([one for repeat in range(1, 6) for one in rr(repeat, scale)] for scale in (0, 256))
    rows = compare(side(before), side(after), min_effect=0.02)
    verdicts = {row.quantity.point: row.verdict for row in rows}
    assert verdicts == {"p50": Verdict.WORSE, "p99": Verdict.WORSE, "rate": Verdict.SAME}
    assert rows[0].contrast.ratio == pytest.approx(2, rel=1e-3)


def loaded_rr(repeat, factor):
    instance = Instance(f"l{repeat}", Probe.LOADED_RR, A, EndpointTarget(B, Path.LOOPBACK), Direction.FORWARD, repeat)
    idle, loaded = (
        Histogram(buckets={value + i: 40 for i in range(-20, 21)}, sum=1) for value in (3000, 3000 + factor)
    )
    return [
        window(instance, histograms={"idle_latency_ns": idle}),
        window(instance, histograms={"loaded_latency_ns": loaded}),
    ]


def test_round_trips_beside_a_load_are_compared_apart_from_those_without():
    before, after = ([one for repeat in range(1, 6) for one in loaded_rr(repeat, more)] for more in (0, 256))
    rows = compare(side(before), side(after), min_effect=0.02)
    assert {str(row.quantity): row.verdict for row in rows} == {
        "idle_latency_ns p50": Verdict.SAME,
        "idle_latency_ns p99": Verdict.SAME,
        "loaded_latency_ns p50": Verdict.WORSE,
        "loaded_latency_ns p99": Verdict.WORSE,
    }


def datagrams(repeat, lost):
    instance = Instance(f"u{repeat}", Probe.UDP_STREAM, A, EndpointTarget(B, Path.LOOPBACK), Direction.FORWARD, repeat)
    return [window(instance, counters={"receiver_bytes": 10**6, "sent_datagrams": 1000, "lost_datagrams": lost})]


@pytest.mark.parametrize(("lost", "verdict"), [(0, Verdict.SAME), (5, Verdict.WORSE), (100, Verdict.WORSE)])
def test_loss_is_compared_by_what_was_not_lost(lost, verdict):
    before, after = ([one for repeat in range(1, 6) for one in datagrams(repeat, share)] for share in (0, lost))
    verdicts = {row.quantity.metric: row.verdict for row in compare(side(before), side(after), min_effect=0.02)}
    assert verdicts == {"receiver_bytes": Verdict.SAME, "lost_datagrams": verdict}


def test_a_figure_that_came_down_to_nothing_is_named():
    gone = [replace(one, counters={"receiver_bytes": 0}) for one in streams(100, seed=1)]
    row = judged(side(streams(100, seed=1)), side(gone))
    assert (row.verdict, row.reason) == (Verdict.NOT_COMPARABLE, "only A has a figure above 0")
    assert row.partial


@pytest.mark.parametrize("repeats", [1, MIN_REPEATS - 1])
def test_too_few_repeats_decide_nothing(repeats):
    row = judged(side(streams(100, seed=1, repeats=repeats)), side(streams(50, seed=2)))
    assert row.verdict is Verdict.UNDECIDED
    assert row.reason.startswith(f"{repeats} repeat")
    assert row.contrast is None
    assert row.partial


def test_what_is_undecided_says_how_many_repeats_would_tell():
    row = judged(side(streams(100, seed=1)), side(streams(102.2, seed=2)))
    assert row.verdict is Verdict.UNDECIDED
    needed = int(re.fullmatch(r"about (\d+) repeats a side would tell", row.reason)[1])
    decided = judged(side(streams(100, seed=1, repeats=2 * needed)), side(streams(102.2, seed=2, repeats=2 * needed)))
    assert decided.verdict is Verdict.BETTER


@pytest.mark.parametrize("lost", [{"counters": {"receiver_bytes": 0}}, {"flags": frozenset({Flag.CUT})}, None])
def test_repeats_that_came_to_nothing_are_in_no_mean_but_told(lost):
    """Without this a path that breaks down now and then looks as good as one that does not."""
    good = streams(100, seed=1, repeats=7)
    broken = [one if one.instance.repeat > 2 else replace(one, **(lost or {})) for one in good]
    left = broken if lost else [one for one in broken if one.instance.repeat > 2]
    row = judged(side(good), Side(series(left, [run_of(good)]), HERE))
    assert (row.verdict, row.repeats) == (Verdict.SAME, (7, 5))
    assert row.reason == "2 of 7 repeats of B lack it"
    assert row.partial


def test_a_measurement_that_failed_on_both_sides_is_named():
    failed = Side(series([], [run_of(streams(100, seed=1))]), HERE)
    row = judged(failed, failed)
    assert (row.verdict, row.reason, row.partial) == (Verdict.NOT_COMPARABLE, "neither side has a figure", True)


def test_fewer_pairs_are_not_compared_with_more():
    both = streams(100, seed=1, pair=(A, B)) + streams(400, seed=2, pair=(B, A))
    row = judged(side(both), side(streams(400, seed=3)))
    assert (row.verdict, row.reason) == (Verdict.NOT_COMPARABLE, "pairs 2 against 1")


def test_windows_are_no_repeats():
    row = judged(side(streams(100, seed=1, repeats=1, windows=50)), side(streams(50, seed=2, repeats=1, windows=50)))
    assert row.verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"engine": "tcp_stream"}, {"engine": "other"}, "engine tcp_stream against other"),
        ({"streams": "1"}, {"streams": "32"}, "streams 1 against 32"),
        ({}, {"message_bytes": "1"}, "message_bytes unknown against 1"),
    ],
)
def test_what_was_measured_by_unlike_means_is_refused(before, after, reason):
    sides = side(streams(100, seed=1, **before)), side(streams(50, seed=2, **after))
    refused, forced = judged(*sides), judged(*sides, force=True)
    assert (refused.verdict, refused.reason) == (Verdict.NOT_COMPARABLE, reason)
    assert refused.partial
    assert refused.before == pytest.approx(100e6, rel=0.01)
    assert (forced.verdict, forced.reason) == (Verdict.WORSE, reason)


@pytest.mark.parametrize("unlike", [{"kernel": "6.12"}, {"scale": "0.1"}])
def test_unlike_kernels_and_scales_are_refused(unlike):
    sides = side(streams(100, seed=1)), side(streams(100, seed=2), **unlike)
    assert judged(*sides).verdict is Verdict.NOT_COMPARABLE
    assert next(iter(unlike)) in judged(*sides).reason
    assert judged(*sides, force=True).verdict is Verdict.SAME


def test_what_was_used_counts_and_not_what_was_asked_for():
    asked = streams(100, seed=1, engine="io_uring")
    before = [replace(one, instance=replace(one.instance, parameters={"engine": "auto"})) for one in asked]
    after = [replace(one, facts={"engine": "libaio"}) for one in before]
    row = judged(side(before), side(after))
    assert (row.verdict, row.reason) == (Verdict.NOT_COMPARABLE, "engine io_uring against libaio")


def test_an_engine_that_changed_between_repeats_is_mixed():
    mixed = streams(100, seed=1)
    mixed = [replace(one, facts={"engine": "x"}) if one.instance.repeat == 3 else one for one in mixed]
    assert judged(side(mixed), side(streams(100, seed=2))).reason == "engine mixed against tcp_stream"


def test_what_one_side_lacks_is_named():
    row = judged(side(streams(100, seed=1)), side([]))
    assert (row.verdict, row.reason, row.quantity) == (Verdict.NOT_COMPARABLE, "only A has it", None)
    assert row.partial


def test_pairs_of_a_path_are_one_value_for_each_repeat():
    both = streams(100, seed=1, pair=(A, B)) + streams(400, seed=2, pair=(B, A))
    renamed = streams(100, seed=3, pair=(A, C)) + streams(400, seed=4, pair=(C, A))
    row = judged(side(both), side(renamed))
    assert row.before == pytest.approx(200e6, rel=0.01)
    assert row.repeats == (5, 5)
    assert row.verdict is Verdict.SAME


def test_a_repeat_that_lacks_a_pair_has_no_value():
    lacking = streams(100, seed=1, pair=(A, B)) + streams(400, seed=2, pair=(B, A), repeats=4)
    assert judged(side(lacking), side(lacking)).repeats == (4, 4)


def test_spoiled_windows_are_in_no_figure_and_many_of_them_make_it_unsound():
    good = streams(100, seed=1, windows=20)
    spoiled = [replace(one, flags=frozenset({Flag.CUT}), counters={"receiver_bytes": 1}) for one in good[::20]]
    few = judged(side(good), side(good + spoiled))  # one in 21
    assert (few.verdict, few.unsound) == (Verdict.SAME, False)
    many = judged(side(good), side(good + spoiled * 3))
    assert (many.verdict, many.unsound) == (Verdict.SAME, True)
    assert many.partial


def questions(count, changed):
    """A side of ``count`` measurements, of which the first has its own truth."""
    windows = []
    for step in range(count):
        for one in streams(changed if step == 0 else 100, seed=changed + step):
            lease = f"{step}-{one.instance.assignment_id}"
            told_apart = replace(one.instance, assignment_id=lease, parameters={"step": f"{step:02}"})
            windows.append(replace(one, instance=told_apart))
    return Side(series(windows, []), HERE)


def test_many_questions_need_a_clearer_answer():
    """A difference that is found alone is not found among fifty that are none (Holm)."""
    alone, among = (compare(questions(n, 100), questions(n, 104), min_effect=0.02)[0] for n in (1, 50))
    assert alone.verdict is Verdict.BETTER
    assert among.contrast.ratio == alone.contrast.ratio
    assert among.verdict is Verdict.UNDECIDED
    assert among.p > alone.p
