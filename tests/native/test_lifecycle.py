"""One life for every engine: idle, armed, running, stopped, closed; nothing stays behind."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.native.leaks import assert_no_leak

from cvmprobe.errors import UsageError
from cvmprobe.native.engine import Engine
from cvmprobe.native.histogram import Histogram
from cvmprobe.native.recording import PARTS, cost_ns
from cvmprobe.native.timer import Timer

STOP_BOUND_S = 5  # the promise is 200 ms; a loaded machine may be late, a stop that does not act is not


def running(**parameters) -> Timer:
    engine = Timer(**{"rate_per_s": 1000} | parameters)
    engine.arm()
    engine.start()
    return engine


def test_states_come_in_their_order():
    engine = Timer(rate_per_s=1000)
    assert (engine.state, engine.started_ns, engine.thread_ids) == ("idle", 0, ())
    engine.arm()
    assert (engine.state, engine.started_ns, len(engine.thread_ids)) == ("armed", 0, 1)
    engine.start()
    assert engine.state == "running"
    assert engine.started_ns > 0
    engine.stop()
    assert engine.state == "stopped"
    engine.close()
    assert engine.state == "closed"


@pytest.mark.parametrize("verb", ["start", "snapshot"])
def test_what_comes_too_early_is_refused(verb):
    with pytest.raises(RuntimeError, match="idle"):
        getattr(Timer(rate_per_s=1), verb)()


@pytest.mark.parametrize("verb", ["arm", "start", "snapshot"])
def test_a_closed_engine_does_not_come_back(verb):
    engine = running()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        getattr(engine, verb)()


def test_stop_and_close_may_be_repeated_in_any_state():
    for make in (lambda: Timer(rate_per_s=1), running):
        engine = make()
        for _ in range(2):
            engine.stop()
        for _ in range(2):
            engine.close()
        engine.stop()
        assert engine.state == "closed"
        assert engine.drain_samples() == (b"", 0)


def test_an_armed_engine_ends_without_having_run():
    engine = Timer(rate_per_s=1000, workers=2)
    engine.arm()
    engine.stop()
    assert engine.snapshot().counters["ticks"] == 0
    engine.close()


def test_stop_acts_on_a_worker_that_sleeps_long():
    engine = running(rate_per_s=0.001)
    begin = time.monotonic()
    engine.stop()
    assert time.monotonic() - begin < STOP_BOUND_S
    assert engine.snapshot().finished
    engine.close()


def test_a_stopped_engine_still_tells_its_totals():
    engine = running(limit=50, rate_per_s=1e9)
    assert engine.snapshot(engine.started_ns + 20 * 10**9).finished
    engine.stop()
    assert engine.snapshot().counters["ticks"] == 50
    engine.close()
    assert engine.error is None
    assert len(engine.thread_ids) == 1


def test_a_snapshot_waits_for_its_moment_and_no_longer_than_the_workers():
    engine = running(duration_ms=150)
    at_ns = engine.started_ns + 20_000_000
    assert engine.snapshot(at_ns).t_ns >= at_ns
    far_ns = engine.started_ns + 3600 * 10**9
    last = engine.snapshot(far_ns)
    assert last.finished
    assert last.t_ns < far_ns
    engine.close()


def test_every_snapshot_tells_the_cpu_time_of_the_workers():
    engine = running(rate_per_s=0, duration_ms=60)
    seen = [engine.snapshot(engine.started_ns + k * 20_000_000).counters["cpu_ns"] for k in range(1, 5)]
    engine.stop()
    final = engine.snapshot().counters["cpu_ns"]
    engine.close()
    assert seen[0] > 0
    assert seen == sorted(seen)
    assert seen[-1] <= final


def test_run_delay_grows_only_where_the_kernel_tells_it():
    engine = running(rate_per_s=0, duration_ms=50, workers=4, placement="same")  # four spinners wait for one CPU
    last = engine.snapshot(engine.started_ns + 20 * 10**9)
    engine.close()
    assert ("run_delay_ns" in last.counters) == Path("/proc/self/schedstat").exists()
    assert last.counters.get("run_delay_ns", 1) > 0


def test_close_waits_for_a_snapshot_in_another_thread():
    engine = running()
    found = []
    reader = threading.Thread(target=lambda: found.append(engine.snapshot(engine.started_ns + 3600 * 10**9)))
    reader.start()
    engine.close()
    reader.join(STOP_BOUND_S)
    assert not reader.is_alive()
    assert [snapshot.finished for snapshot in found] in ([True], [])  # [] where close came first, and it refused


def test_threads_that_stop_at_once_all_return():
    engine = running(workers=4)
    stoppers = [threading.Thread(target=engine.stop) for _ in range(4)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(STOP_BOUND_S)
        assert not stopper.is_alive()
    assert engine.state == "stopped"
    engine.close()


def test_dropping_a_running_engine_joins_its_threads():
    engine = running(workers=3)
    tasks = [Path(f"/proc/self/task/{thread}") for thread in engine.thread_ids]
    assert [task.exists() for task in tasks] == [True] * 3
    del engine
    assert not any(task.exists() for task in tasks)


def test_workers_are_named_and_deaf_to_signals():
    engine = running()
    status = Path(f"/proc/self/task/{engine.thread_ids[0]}/status").read_text()
    engine.close()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Name"] == "timer-0"
    blocked = int(fields["SigBlk"], 16)
    assert [number for number in (1, 2, 10, 15) if not blocked >> (number - 1) & 1] == []


def test_an_engine_without_workers_cannot_be_armed():
    with pytest.raises(TypeError, match="no workers"):
        Engine().arm()


@pytest.mark.parametrize("workers", [0, 1025])
def test_a_number_of_workers_out_of_range_is_refused(workers):
    with pytest.raises(UsageError, match="1 to 1024"):
        Timer(rate_per_s=1, workers=workers)


def live_once(end):
    engine = running(ring_rows=60_000, limit=10, rate_per_s=1e9)
    engine.snapshot(engine.started_ns + 20 * 10**9)
    engine.drain_samples()
    end(engine)


def refuse_to_arm():
    engine = Timer(rate_per_s=1, ring_rows=1 << 58)  # more than there is
    with pytest.raises(Exception, match="mmap"):
        engine.arm()
    assert engine.state == "closed"


def histogram_life():
    histogram = Histogram()
    histogram.record(3)
    histogram.copy().minus(histogram).sparse()


LIVES = {
    "closed": lambda: live_once(Timer.close),
    "stopped and dropped": lambda: live_once(Timer.stop),
    "dropped": lambda: live_once(lambda engine: None),
    "armed and dropped": lambda: Timer(rate_per_s=1, ring_rows=60_000).arm(),
    "refused": refuse_to_arm,
    "histogram": histogram_life,
    "recording": lambda: cost_ns("all", 100),
}


@pytest.mark.parametrize("life", LIVES)
def test_nothing_leaks(life):
    assert_no_leak(LIVES[life])


def test_every_part_of_recording_takes_some_time():
    assert all(cost_ns(part, 1000) > 0 for part in PARTS)
    with pytest.raises(ValueError, match="0 operations"):
        cost_ns("all", 0)
    with pytest.raises(KeyError):
        cost_ns("magic")


def test_engines_survive_a_fork_of_somebody_else():
    """A child (of subprocess, say) has none of the threads; leaving it must not wait for them."""
    engine = running()
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    engine.close()


def test_a_snapshot_that_says_finished_holds_everything():
    for _ in range(100):
        engine = running(limit=20_000, rate_per_s=1e9)
        seen = engine.snapshot()
        while not seen.finished:
            seen = engine.snapshot()
        assert seen.counters["ticks"] == seen.histograms["late_ns"].count == 20_000
        engine.close()


def test_a_signal_reaches_python_while_it_waits_for_a_snapshot():
    class AlarmError(Exception):
        pass

    def ring(*_):
        raise AlarmError

    engine = running()
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(AlarmError):
            engine.snapshot(engine.started_ns + 30 * 10**9)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        engine.close()
