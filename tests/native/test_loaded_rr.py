"""loaded_rr: round trips alone, then beside a stream, each half its own; nothing lost between the two."""

import threading

import pytest
from tests.native.executions import PLENTY, admitted, run, setup_of
from tests.native.leaks import assert_no_leak

from cvmprobe.errors import DeniedError, UsageError
from cvmprobe.model.window import Direction, Flag, Phase, Probe
from cvmprobe.probes.catalog import CATALOG, prepare
from cvmprobe.probes.parts import part_bytes, part_id, parts_of
from cvmprobe.probes.responder import Responder

LOADED = Probe.LOADED_RR
FRAME = {"interval_ms": 100, "duration_ms": 600}


@pytest.fixture
def responder():
    found = Responder("127.0.0.1", 0)
    yield found
    found.close()


def ours(responder, **asked):
    return admitted(responder, LOADED, **(FRAME | asked))


def halves(result):
    idle = [window for window in result.windows if "idle_latency_ns" in window.histograms]
    loaded = [window for window in result.windows if "loaded_latency_ns" in window.histograms]
    assert idle + loaded == list(result.windows)
    return idle, loaded


def total_of(windows, counter):
    return sum(window.counters[counter] for window in windows)


@pytest.mark.parametrize("direction", [Direction.FORWARD, Direction.REVERSE, Direction.BOTH])
def test_both_halves_are_whole(responder, direction):
    shown, result = run(ours(responder, direction=direction))
    assert result.error is None
    assert len(shown) == len(result.windows)
    idle, loaded = halves(result)
    assert idle
    assert not any(Flag.CUT in window.flags for window in result.windows)
    seen = 0
    for half, windows in (("idle", idle), ("loaded", loaded)):
        counted = sum(window.histograms[f"{half}_latency_ns"].count for window in windows)
        assert total_of(windows, f"{half}_transactions") == result.totals[f"{half}_transactions"] > 0
        assert abs(counted - result.totals[f"{half}_transactions"]) <= 1  # the one under way while it was looked at
        seen += counted
    assert seen == result.totals["idle_transactions"] + result.totals["loaded_transactions"]
    assert not [name for window in idle for name in window.counters if "bytes" in name or name.startswith("loaded")]
    assert not [name for window in loaded for name in window.counters if name.startswith("idle")]
    if direction is not Direction.REVERSE:
        assert total_of(loaded, "receiver_bytes") == result.totals["sent_bytes"] == total_of(loaded, "sent_bytes") > 0
    if direction is not Direction.FORWARD:
        back = total_of(loaded, "reverse_receiver_bytes")
        assert back == result.totals["reverse_receiver_bytes"] == result.totals["reverse_sent_bytes"] > 0


def test_each_half_has_a_warm_up(responder):
    _, result = run(ours(responder, omit_ms=100, duration_ms=800))
    idle, loaded = halves(result)
    for windows in (idle, loaded):
        phases = [window.phase for window in windows]
        assert phases[0] is Phase.WARMUP
        assert Phase.STEADY in phases


def test_a_stop_in_either_half_ends_it(responder):
    for windows in (1, 8):
        execution = prepare(ours(responder, duration_ms=1_000 if windows == 8 else 60_000))
        for number, _ in enumerate(execution.observe(), 1):
            if number == windows:
                stopper = threading.Thread(target=execution.stop)
                stopper.start()
        stopper.join()
        result = execution.result()
        assert result.error is None
        assert result.windows
        assert all(Flag.CUT in window.flags for window in result.windows)


def test_without_an_admission_nothing_begins(responder):
    _, result = run(setup_of(LOADED, responder.port, **FRAME))
    assert isinstance(result.error, DeniedError)
    assert result.windows == ()


def test_a_stream_that_is_not_let_in_keeps_the_idle_half(responder):
    setup = setup_of(LOADED, responder.port, **FRAME)
    name = bytes.fromhex(setup.instance.assignment_id)
    trips = part_id(name, Probe.LOADED_RR, Probe.TCP_RR)
    responder.admit(trips, setup.key, Probe.TCP_RR, valid_for_ms=60_000, max_bytes=PLENTY)
    _, result = run(setup)
    assert isinstance(result.error, DeniedError)
    idle, loaded = halves(result)
    assert idle
    assert loaded == []
    assert all(Flag.CUT in window.flags for window in idle)


def test_the_allowance_is_divided_and_binds(responder):
    allowed = 8_000_000
    _, result = run(ours(responder, max_bytes=allowed))
    assert result.totals["sent_bytes"] == part_bytes(allowed, Probe.LOADED_RR, Probe.TCP_STREAM)
    assert sum(part_bytes(allowed, Probe.LOADED_RR, part) for part in parts_of(Probe.LOADED_RR)) == allowed


def test_a_revoked_one_is_gone_in_both_parts(responder):
    setup = ours(responder)
    responder.revoke(bytes.fromhex(setup.instance.assignment_id))
    _, result = run(setup)
    assert isinstance(result.error, DeniedError)


def test_too_short_is_named(responder):
    with pytest.raises(UsageError, match="no two halves"):
        prepare(ours(responder, duration_ms=300, omit_ms=100))


def test_what_is_measured_is_in_the_catalog(responder):
    known = {metric.name for metric in CATALOG[Probe.LOADED_RR].metrics}
    found = set()
    for direction in (Direction.FORWARD, Direction.BOTH):
        _, result = run(ours(responder, direction=direction))
        for window in result.windows:
            found |= {*window.histograms, *window.counters}
        found |= set(result.totals)
    assert known <= found


def test_nothing_of_an_execution_stays(responder):
    assert_no_leak(lambda: run(ours(responder, duration_ms=200)), repeats=15)
