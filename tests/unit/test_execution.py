"""The machine that cuts every probe's windows, with an engine whose time is a list of snapshots."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from cvmprobe.errors import EngineError, UnsoundError, UsageError
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.window import ClockPair, Direction, Flag, Instance, Phase, Probe
from cvmprobe.probes.cutter import Cutter
from cvmprobe.probes.execution import Completed, Execution, Setup

MS = 1_000_000
START = 50_000 * MS
INSTANCE = Instance("a1", Probe.DISK, Endpoint("n", Role.POD), VolumeTarget("data"), Direction.NONE, 0)


def shot(at_ms, finished=False, **counters):
    return SimpleNamespace(t_ns=START + int(at_ms * MS), finished=finished, counters=counters, histograms={})


@dataclass
class FakeEngine:
    """Gives out its snapshots one by one; the last one again after its stop."""

    script: list
    rows: list = field(default_factory=list)
    error: tuple | None = None
    fails_at: int | None = None
    facts: dict = field(default_factory=dict)
    thread_ids: tuple = (1,)
    state: str = "armed"
    started_ns: int = 0
    asked: list = field(default_factory=list)
    stops: int = 0

    def start(self):
        self.state, self.started_ns = "running", START

    def snapshot(self, at_ns=0):
        if self.state == "running":
            self.asked.append((at_ns - START) // MS)
        if self.fails_at == len(self.asked):
            self.error = ("send", 104)
        if self.state == "stopped" or len(self.asked) > len(self.script):
            return replace_finished(self.script[min(len(self.asked), len(self.script)) - 1])
        return self.script[len(self.asked) - 1]

    def drain_samples(self):
        return self.rows.pop(0) if self.rows else (b"", 0)

    def stop(self):
        self.stops += 1
        if self.state != "closed":
            self.state = "stopped"

    def close(self):
        self.state = "closed"


def replace_finished(snapshot):
    return SimpleNamespace(**(vars(snapshot) | {"finished": True}))


@dataclass
class FakeFace:
    engine: FakeEngine | None = None
    refusal: Exception | None = None
    omit_ms: int = 0
    operations: tuple = ("reads",)
    completion: Exception | None = None
    closed: int = 0

    def open(self, stopping):
        self.stopping = stopping
        if self.refusal:
            raise self.refusal
        return self.engine

    def complete(self, windows, totals):
        assert self.engine.state == "stopped"
        if self.completion:
            raise self.completion
        return Completed(tuple(replace(window, facts={"completed": "yes"}) for window in windows), totals)

    def close(self):
        self.closed += 1


def setup(duration_ms=300, **changes):
    return replace(Setup(INSTANCE, interval_ms=100, duration_ms=duration_ms, max_bytes=0), **changes)


SCRIPT = [shot(100, reads=10), shot(200, reads=25), shot(300, reads=30), shot(302, finished=True, reads=31)]


def run(engine, **changes):
    face = FakeFace(engine)
    execution = Execution(setup(**changes), face)
    return list(execution.observe()), execution.result(), face


def test_windows_join_without_a_hole_and_add_up_to_the_total():
    seen, result, face = run(FakeEngine(SCRIPT))
    assert [window.counters["reads"] for window in seen] == [10, 15, 5, 1]
    assert sum(window.duration_ns for window in seen) == 302 * MS
    assert result.totals == {"reads": 31}
    assert [window.facts for window in result.windows] == [{"completed": "yes"}] * 4
    assert (result.error, face.closed, face.engine.state) == (None, 1, "closed")


def test_a_late_reader_makes_a_longer_window_and_returns_to_the_grid():
    engine = FakeEngine([shot(100, reads=1), shot(345, reads=2), shot(400, finished=True, reads=3)])
    seen, _, _ = run(engine, duration_ms=400)
    assert engine.asked == [100, 200, 400]
    assert [window.duration_ns // MS for window in seen] == [100, 245, 55]


def test_phases_are_labels_and_nothing_is_reset():
    face = FakeFace(FakeEngine(SCRIPT), omit_ms=100)
    seen = list(Execution(setup(), face).observe())
    assert [window.phase for window in seen] == [Phase.WARMUP, Phase.STEADY, Phase.STEADY, Phase.DRAIN]


def test_an_execution_without_an_end_keeps_no_window_and_is_not_cut_by_a_stop():
    engine = FakeEngine([shot(100, reads=1), shot(200, reads=2)])
    execution = Execution(setup(duration_ms=None), FakeFace(engine))
    seen = []
    for window in execution.observe():
        seen.append(window)
        if len(seen) == 2:
            execution.stop()
    assert [window.phase for window in seen] == [Phase.STEADY] * 3
    assert all(not window.flags for window in seen)
    assert execution.result().windows == ()


def test_a_stop_before_the_end_cuts_the_last_window():
    execution = Execution(setup(), FakeFace(FakeEngine(SCRIPT[:2])))
    seen = []
    for window in execution.observe():
        seen.append(window)
        execution.stop()
    assert [Flag.CUT in window.flags for window in seen] == [False, True]
    assert execution.result().error is None


def test_a_stop_before_the_start_measures_nothing():
    face = FakeFace(FakeEngine(SCRIPT))
    execution = Execution(setup(), face)
    execution.stop()
    assert list(execution.observe()) == []
    assert face.stopping()
    assert (face.engine.started_ns, face.engine.state, face.closed) == (0, "closed", 1)
    assert execution.result().windows == ()


def test_a_worker_that_failed_ends_it_and_what_was_measured_stays():
    seen, result, _ = run(FakeEngine(SCRIPT, fails_at=2))
    assert seen[0].flags == frozenset()
    assert Flag.ERROR in seen[1].flags
    assert {Flag.ERROR, Flag.CUT} <= seen[-1].flags
    assert isinstance(result.error, EngineError)
    assert (result.error.call, result.error.errno) == ("send", 104)
    assert sum(window.counters["reads"] for window in result.windows) == result.totals["reads"]


def test_a_face_that_refuses_is_closed_and_its_error_kept():
    face = FakeFace(refusal=UnsoundError("tmpfs is no disk"))
    execution = Execution(setup(), face)
    assert list(execution.observe()) == []
    result = execution.result()
    assert (str(result.error), result.windows, face.closed) == ("tmpfs is no disk", (), 1)


def test_a_completion_that_fails_leaves_the_windows_cut():
    face = FakeFace(FakeEngine(SCRIPT), completion=UnsoundError("no answer from the responder"))
    execution = Execution(setup(), face)
    list(execution.observe())
    result = execution.result()
    assert str(result.error) == "no answer from the responder"
    assert [Flag.CUT in window.flags for window in result.windows] == [True] * 4
    assert (face.engine.state, face.closed) == ("closed", 1)


def test_a_consumer_that_walks_away_leaves_nothing_running():
    face = FakeFace(FakeEngine(SCRIPT))
    windows = Execution(setup(), face).observe()
    next(windows)
    windows.close()
    assert (face.engine.state, face.closed) == ("closed", 1)


def test_an_error_of_ours_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        list(Execution(setup(), FakeFace(refusal=ZeroDivisionError())).observe())


def test_raw_samples_come_with_what_was_overwritten():
    engine = FakeEngine(SCRIPT, rows=[(b"a" * 32, 0), (b"b" * 16, 7)])
    seen, result, _ = run(engine, raw_samples=True)
    assert [Flag.OVERRUN in window.flags for window in seen] == [False, True, False, False]
    assert [(block.rows, block.lost) for block in result.samples] == [(b"a" * 32, 0), (b"b" * 16, 7)]


def test_flags_of_the_window_come_from_its_own_counters():
    engine = FakeEngine(
        [shot(100, reads=1, run_delay_ns=9 * MS), shot(200, finished=True, reads=2, run_delay_ns=10 * MS)],
        facts={"fallback": "io_uring_setup: EPERM"},
    )
    seen, _, _ = run(engine, duration_ms=200)
    assert [window.flags for window in seen] == [{Flag.STARVED, Flag.DEGRADED}, {Flag.DEGRADED}]


@pytest.mark.parametrize(
    ("changes", "omit_ms", "named"),
    [
        ({}, 150, "omit_ms = 150: give a multiple of the interval, 100 ms"),
        ({"interval_ms": 0}, 0, "at least 1 ms"),
        ({"duration_ms": 200}, 200, "all 200 ms are warm-up"),
    ],
)
def test_times_that_do_not_fit_are_refused_before_anything_runs(changes, omit_ms, named):
    with pytest.raises(UsageError, match=named):
        Execution(setup(**changes), FakeFace(omit_ms=omit_ms))


def cutter(duration_ns=None):
    return Cutter(INSTANCE, started_ns=START, omit_ns=0, duration_ns=duration_ns)


def test_a_counter_is_absent_until_it_is_known_at_both_ends():
    cut = cutter()
    first = cut.cut(shot(100, reads=5), {})
    second = cut.cut(shot(200, reads=9, retransmits=3), {})
    third = cut.cut(shot(300, retransmits=4), {})
    assert [first.counters, second.counters, third.counters] == [{"reads": 5}, {"reads": 4}, {"retransmits": 1}]


def test_the_wall_clock_may_jump_and_the_windows_keep_their_order_and_length():
    cut = cutter()
    pairs = [ClockPair(START, 10_000 * MS), ClockPair(START, 2_000 * MS), ClockPair(START, 90_000 * MS)]
    windows = [cut.cut(shot(100 * (i + 1)), {}, pair) for i, pair in enumerate(pairs)]
    assert [window.end_unix_ms for window in windows] == [10_100, 10_101, 90_300]
    assert [window.duration_ns for window in windows] == [100 * MS] * 3


def test_windows_end_after_those_of_the_execution_before():
    _, result, _ = run(FakeEngine(SCRIPT), after_unix_ms=1 << 50)
    assert [window.end_unix_ms - (1 << 50) for window in result.windows] == [1, 2, 3, 4]


def test_a_window_that_outlives_the_deadline_is_no_longer_steady():
    cut = cutter(duration_ns=200 * MS)
    assert cut.cut(shot(100), {}).phase is Phase.STEADY
    assert cut.cut(shot(205), {}).phase is Phase.STEADY  # the reader woke a little late
    late = cutter(duration_ns=200 * MS)
    late.cut(shot(100), {})
    assert late.cut(shot(250), {}).phase is Phase.DRAIN


def test_a_busy_node_is_flagged_and_past_the_limit_refused(monkeypatch):
    monkeypatch.setattr("cvmprobe.probes.execution.pressure_shares", lambda *_: {"cpu": 0.0, "io": 0.5})
    windows, _, _ = run(FakeEngine(SCRIPT), max_pressure=0.5)
    assert all(Flag.PRESSED in window.flags for window in windows)
    assert {window.facts["pressure_before"] for window in windows} == {"cpu 0 %, io 50 %"}
    assert all("pressure_before" not in window.facts for window in run(FakeEngine(SCRIPT))[0])
    engine = FakeEngine(SCRIPT)
    windows, result, _ = run(engine, max_pressure=0.4)
    assert (windows, engine.state) == ([], "armed")
    assert "waited for io 50%" in str(result.error)
