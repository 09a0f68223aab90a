"""loaded_rr: round trips alone, then beside a stream, each half its own; nothing lost between the two."""

import os
import threading
import uuid

import pytest
from tests.native.leaks import assert_no_leak

from cvmprobe.errors import DeniedError, UsageError
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, PeerAddress, Role
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe
from cvmprobe.probes.catalog import CATALOG, prepare
from cvmprobe.probes.execution import Setup
from cvmprobe.probes.parts import part_bytes, part_id, parts_of
from cvmprobe.probes.responder import Responder

PLENTY = 1 << 50
A, B = Endpoint("a", Role.POD), Endpoint("b", Role.POD)


@pytest.fixture
def responder():
    found = Responder("127.0.0.1", 0)
    yield found
    found.close()


def setup_of(responder, *, direction=Direction.FORWARD, admitted=True, max_bytes=PLENTY, duration_ms=600, **asked):
    instance = Instance(
        uuid.uuid4().hex,
        Probe.LOADED_RR,
        A,
        EndpointTarget(B, Path.LOOPBACK),
        direction,
        0,
        {name: str(value) for name, value in asked.items()},
    )
    key = os.urandom(32)
    if admitted:
        name = bytes.fromhex(instance.assignment_id)
        responder.admit(name, key, Probe.LOADED_RR, valid_for_ms=60_000, max_bytes=max_bytes)
    peer = PeerAddress("127.0.0.1", responder.port)
    return Setup(instance, interval_ms=100, duration_ms=duration_ms, max_bytes=max_bytes, peer=peer, key=key)


def run(setup):
    execution = prepare(setup)
    seen = list(execution.observe())
    return seen, execution.result()


def halves(result):
    idle = [window for window in result.windows if "idle_latency_ns" in window.histograms]
    loaded = [window for window in result.windows if "loaded_latency_ns" in window.histograms]
    assert idle + loaded == list(result.windows)
    return idle, loaded


def total_of(windows, counter):
    return sum(window.counters[counter] for window in windows)


@pytest.mark.parametrize("direction", [Direction.FORWARD, Direction.REVERSE, Direction.BOTH])
def test_both_halves_are_whole(responder, direction):
    shown, result = run(setup_of(responder, direction=direction))
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
    _, result = run(setup_of(responder, omit_ms=100, duration_ms=800))
    idle, loaded = halves(result)
    for windows in (idle, loaded):
        phases = [window.phase for window in windows]
        assert phases[0] is Phase.WARMUP
        assert Phase.STEADY in phases


def test_a_stop_in_either_half_ends_it(responder):
    for windows in (1, 8):
        execution = prepare(setup_of(responder, duration_ms=1_000 if windows == 8 else 60_000))
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
    _, result = run(setup_of(responder, admitted=False))
    assert isinstance(result.error, DeniedError)
    assert result.windows == ()


def test_a_stream_that_is_not_let_in_keeps_the_idle_half(responder):
    setup = setup_of(responder, admitted=False)
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
    _, result = run(setup_of(responder, max_bytes=allowed))
    assert result.totals["sent_bytes"] == part_bytes(allowed, Probe.LOADED_RR, Probe.TCP_STREAM)
    assert sum(part_bytes(allowed, Probe.LOADED_RR, part) for part in parts_of(Probe.LOADED_RR)) == allowed


def test_a_revoked_one_is_gone_in_both_parts(responder):
    setup = setup_of(responder)
    responder.revoke(bytes.fromhex(setup.instance.assignment_id))
    _, result = run(setup)
    assert isinstance(result.error, DeniedError)


def test_too_short_is_named(responder):
    with pytest.raises(UsageError, match="no two halves"):
        prepare(setup_of(responder, duration_ms=300, omit_ms=100))


def test_what_is_measured_is_in_the_catalog(responder):
    known = {metric.name for metric in CATALOG[Probe.LOADED_RR].metrics}
    found = set()
    for direction in (Direction.FORWARD, Direction.BOTH):
        _, result = run(setup_of(responder, direction=direction))
        for window in result.windows:
            found |= {*window.histograms, *window.counters}
        found |= set(result.totals)
    assert known <= found


def test_nothing_of_an_execution_stays(responder):
    assert_no_leak(lambda: run(setup_of(responder, duration_ms=200)), repeats=15)
