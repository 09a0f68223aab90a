"""Pace, ring and placement, seen through the engine that only keeps time."""

import os
import struct

import pytest

from cvmprobe.errors import UsageError
from cvmprobe.native.engine import parse_placement
from cvmprobe.native.timer import Timer

IMPOSSIBLE_PER_S = 1e9  # every operation but the first is late, so nothing depends on this machine's timers


def run(**parameters):
    """Run a timer to its end; return (its start, last snapshot, rows, overwritten)."""
    engine = Timer(**parameters)
    engine.arm()
    engine.start()
    last = engine.snapshot(engine.started_ns + 20 * 10**9)
    assert last.finished
    rows, overwritten = engine.drain_samples()
    started_ns = engine.started_ns
    engine.close()
    return started_ns, last, list(struct.iter_unpack("<QIBBH", rows)), overwritten


def test_late_operations_keep_the_time_they_were_meant_for():
    started_ns, last, rows, overwritten = run(rate_per_s=IMPOSSIBLE_PER_S, limit=5000, ring_rows=5000)
    assert overwritten == 0
    assert [t_ns - started_ns for t_ns, *_ in rows] == list(range(5000))
    lateness = [value_ns for _, value_ns, *_ in rows]
    assert sum(lateness) == last.histograms["late_ns"].sum
    assert all(late > 0 for late in lateness[1:])


def test_a_constant_rate_does_not_drift():
    started_ns, _, rows, _ = run(rate_per_s=3e8, limit=3001, ring_rows=3001)
    assert [t_ns - started_ns for t_ns, *_ in rows][::3] == pytest.approx(list(range(0, 10_001, 10)), abs=1)


def test_no_operation_starts_before_its_time():
    started_ns, _, rows, _ = run(rate_per_s=5000, limit=20, ring_rows=20, spin_ns=50_000)
    assert [t_ns - started_ns for t_ns, *_ in rows] == [k * 200_000 for k in range(20)]  # late is unsigned: never early


def test_a_deadline_ends_it_before_the_next_intended_start():
    _, last, rows, _ = run(rate_per_s=2, ring_rows=10, duration_ms=120)
    assert len(rows) == last.counters["ticks"] == 1


def gaps(seed: int) -> list[int]:
    started_ns, _, rows, _ = run(rate_per_s=1e7, poisson=True, seed=seed, limit=20_000, ring_rows=20_000)
    starts = [t_ns - started_ns for t_ns, *_ in rows]
    return [b - a for a, b in zip([0, *starts], starts, strict=False)]


def test_poisson_gaps_are_exponential_and_seeded():
    taken = gaps(seed=7)
    assert taken == gaps(seed=7)
    assert taken != gaps(seed=8)
    assert len(taken) == 20_000
    mean = sum(taken) / len(taken)
    deviation = (sum((gap - mean) ** 2 for gap in taken) / len(taken)) ** 0.5
    assert mean == pytest.approx(100, rel=0.05)  # 7 standard errors
    assert deviation == pytest.approx(mean, rel=0.05)  # of an exponential both are equal
    assert sum(gap > 300 for gap in taken) / len(taken) == pytest.approx(0.0498, abs=0.01)


def test_workers_of_one_seed_draw_different_gaps():
    _, _, rows, _ = run(rate_per_s=1e7, poisson=True, seed=7, limit=50, ring_rows=50, workers=2)
    first, second = ([row[0] for row in rows if row[4] == worker] for worker in (0, 1))
    assert len(first) == len(second) == 50
    assert first != second


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (255, 255), (256, 255), (257, 255), (10_000, 255)])
def test_the_ring_keeps_the_newest_and_counts_what_it_overwrote(limit, kept):
    started_ns, last, rows, overwritten = run(rate_per_s=IMPOSSIBLE_PER_S, limit=limit, ring_rows=255)
    assert len(rows) == kept
    assert len(rows) + overwritten == last.counters["ticks"] == limit
    assert [t_ns - started_ns for t_ns, *_ in rows] == list(range(limit - kept, limit))


def test_rows_drained_while_it_writes_are_whole_and_in_order():
    engine = Timer(rate_per_s=IMPOSSIBLE_PER_S, limit=8_000_000, ring_rows=60_000)  # long enough to be overtaken
    engine.arm()
    engine.start()
    seen, lost, finished = [], 0, False
    while not finished:
        finished = engine.snapshot().finished
        rows, overwritten = engine.drain_samples()
        lost += overwritten
        seen += [t_ns - engine.started_ns for t_ns, *_ in struct.iter_unpack("<QIBBH", rows)]
    engine.close()
    assert len(seen) + lost == 8_000_000
    assert seen == sorted(set(seen))  # a torn or repeated row would break this


def test_nothing_is_kept_without_a_ring():
    _, last, rows, overwritten = run(rate_per_s=IMPOSSIBLE_PER_S, limit=100)
    assert (last.counters["ticks"], rows, overwritten) == (100, [], 0)


def test_workers_of_one_engine_are_added_up():
    _, last, rows, overwritten = run(rate_per_s=IMPOSSIBLE_PER_S, limit=1000, ring_rows=1000, workers=3)
    assert last.counters["ticks"] == last.histograms["late_ns"].count == 3000
    assert overwritten == 0
    assert sorted(aux for *_, aux in rows) == sorted([0, 1, 2] * 1000)


def test_placements_mean_what_they_say():
    allowed = sorted(os.sched_getaffinity(0))
    assert parse_placement("inherit") == ()
    assert parse_placement("same") == (allowed[0],)
    assert parse_placement("split") == tuple(allowed)
    assert parse_placement(f"{allowed[-1]},{allowed[0]}") == (allowed[-1], allowed[0])
    assert parse_placement(f"{allowed[0]}-{allowed[0]}") == (allowed[0],)


@pytest.mark.parametrize("text", ["", "fast", "1-", "3-1", "0,,1", "-1", "0-99999999999"])
def test_a_placement_without_meaning_is_refused(text):
    with pytest.raises(UsageError, match="placement"):
        Timer(rate_per_s=1, placement=text)


def test_a_cpu_we_may_not_use_is_refused():
    beyond = max(os.sched_getaffinity(0)) + 1
    with pytest.raises(UsageError, match=f"may not run on CPU {beyond}"):
        parse_placement(str(beyond))


def affinities(**parameters) -> tuple[list[set[int]], dict[str, str]]:
    engine = Timer(rate_per_s=1, **parameters)
    engine.arm()
    found = [os.sched_getaffinity(tid) for tid in engine.thread_ids]
    facts = engine.facts
    engine.close()
    return found, facts


def test_workers_run_where_they_are_placed():
    allowed = sorted(os.sched_getaffinity(0))
    assert affinities(workers=2) == ([set(allowed)] * 2, {"placement": "inherit", "engine": "timer"})
    assert affinities(workers=2, placement="same")[0] == [{allowed[0]}] * 2
    split, facts = affinities(workers=3, placement="split")
    assert split == [{allowed[i % len(allowed)]} for i in range(3)]
    assert facts["placement"] == "split"
