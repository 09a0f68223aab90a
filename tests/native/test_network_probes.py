"""The TCP probes as programs use them: what is asked is checked, what is measured is whole."""

import os
import struct
import threading
from dataclasses import replace

import pytest
from tests.native.executions import admitted, run, setup_of, total_of
from tests.native.leaks import assert_no_leak
from tests.native.slow_session import Ticket, count_bytes, slow_responder

from cvmprobe.errors import DeniedError, EngineError, RefusedError, UsageError, WireError
from cvmprobe.model.endpoint import PeerAddress
from cvmprobe.model.window import Direction, Flag, Phase, Probe
from cvmprobe.probes.catalog import CATALOG, prepare
from cvmprobe.probes.entry import BESIDE
from cvmprobe.probes.responder import Responder

NETWORK = [Probe.TCP_STREAM, Probe.TCP_RR, Probe.TCP_CRR]
ALL_METRICS = {
    Probe.TCP_STREAM: ({}, {"direction": Direction.BOTH}),
    Probe.TCP_RR: ({}, {"rate_per_s": 100, "kernel_stamps": True}),
    Probe.TCP_CRR: ({}, {"rate_per_s": 100, "arrival": "poisson"}),
}


@pytest.fixture
def responder():
    found = Responder("127.0.0.1", 0)
    yield found
    found.close()


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("receive", ["copy", "discard"])
def test_a_stream_is_whole(responder, streams, receive):
    setup = admitted(responder, Probe.TCP_STREAM, streams=streams, receive=receive, omit_ms=100, duration_ms=600)
    seen, result = run(setup)
    assert result.error is None
    assert len(seen) == len(result.windows)
    assert "receiver_bytes" not in seen[0].counters
    assert total_of(result, "sent_bytes") == total_of(result, "receiver_bytes")
    assert result.totals["sent_bytes"] == result.totals["receiver_bytes"] == total_of(result, "sent_bytes") > 0
    assert result.totals["receiver_cpu_ns"] > 0
    assert [window.phase for window in result.windows][:2] == [Phase.WARMUP, Phase.WARMUP]
    assert Phase.STEADY in {window.phase for window in result.windows}
    assert not any(Flag.CUT in window.flags or Flag.ERROR in window.flags for window in result.windows)
    assert result.windows[0].facts["receive"] == receive
    assert result.samples == ()


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("direction", [Direction.REVERSE, Direction.BOTH])
def test_a_stream_is_whole_in_every_direction(responder, direction, streams):
    setup = admitted(responder, Probe.TCP_STREAM, direction=direction, streams=streams, omit_ms=50)
    seen, result = run(setup)
    assert result.error is None
    assert sum(window.counters["reverse_receiver_bytes"] for window in seen) == total_of(
        result, "reverse_receiver_bytes"
    )
    for name in ["reverse_receiver_bytes", "reverse_sent_bytes"]:
        assert result.totals[name] == total_of(result, name) == result.totals["reverse_receiver_bytes"] > 0
    if direction is Direction.BOTH:
        assert result.totals["sent_bytes"] == total_of(result, "receiver_bytes") == result.totals["receiver_bytes"] > 0
    assert not any(Flag.CUT in window.flags or Flag.ERROR in window.flags for window in result.windows)
    facts = result.windows[-1].facts
    assert int(facts["reverse_rtt_ns"]) > 0
    assert int(facts["reverse_path_mtu_bytes"]) > 0
    assert facts["responder_congestion_control"] == facts["congestion_control"]


def test_what_came_back_begins_with_its_first_byte(responder):
    """Until the end windows count from our start, which is earlier than the first byte by a round trip."""
    _, result = run(admitted(responder, Probe.TCP_STREAM, direction=Direction.REVERSE, byte_limit=5_000))
    assert next(window.counters["reverse_receiver_bytes"] for window in result.windows) == 5_000


def test_each_stream_is_told_apart(responder):
    _, result = run(admitted(responder, Probe.TCP_STREAM, direction=Direction.BOTH, streams=2))
    for name in ("sent_bytes", "reverse_receiver_bytes"):
        assert result.totals[f"{name}.1"] + result.totals[f"{name}.2"] == result.totals[name]
        assert total_of(result, f"{name}.1") == result.totals[f"{name}.1"]
    _, result = run(admitted(responder, Probe.TCP_STREAM))
    assert "sent_bytes.1" not in result.totals


def test_a_refused_option_is_an_error(responder):
    seen, result = run(admitted(responder, Probe.TCP_STREAM, congestion="nonesuch"))
    assert seen == []
    assert isinstance(result.error, RefusedError)


def test_both_directions_share_the_connections():
    with pytest.raises(UsageError, match="give 32 at most"):
        prepare(setup_of(Probe.TCP_STREAM, 1, direction=Direction.BOTH, streams=33))


@pytest.mark.parametrize("wait", ["block", "spin", "epoll"])
def test_round_trips_are_whole(responder, wait):
    seen, result = run(admitted(responder, Probe.TCP_RR, wait=wait, raw_samples=True))
    assert result.error is None
    assert len(seen) == len(result.windows)
    assert result.totals["transactions"] == result.totals["receiver_transactions"]
    assert result.totals["transactions"] == total_of(result, "transactions") > 0
    latencies = [value for block in result.samples for _, value, *_ in struct.iter_unpack("<QIBBH", block.rows)]
    assert sum(block.lost for block in result.samples) == 0
    assert len(latencies) == result.totals["transactions"]
    assert sum(latencies) == sum(window.histograms["latency_ns"].sum for window in result.windows)
    assert not any(Flag.CUT in window.flags for window in result.windows)


def test_a_light_probe_goes_on_until_stopped(responder):
    execution = prepare(admitted(responder, Probe.TCP_RR, rate_per_s=200, duration_ms=None, interval_ms=30))
    seen = []
    for window in execution.observe():
        seen.append(window)
        if len(seen) == 3:
            execution.stop()
    result = execution.result()
    assert result.error is None
    assert result.windows == ()
    assert all(window.phase is Phase.STEADY for window in seen)
    assert sum(window.counters["transactions"] for window in seen) == result.totals["transactions"] > 0
    assert "late_operations" in seen[0].counters
    assert "service_ns" in seen[0].histograms


@pytest.mark.parametrize("probe", NETWORK)
def test_a_stop_is_cut(responder, probe):
    execution = prepare(admitted(responder, probe, duration_ms=60_000))
    windows = execution.observe()
    next(windows)
    threading.Thread(target=execution.stop).start()
    list(windows)
    result = execution.result()
    assert result.error is None
    assert all(Flag.CUT in window.flags for window in result.windows)
    assert not any("receiver_bytes" in window.counters for window in result.windows)


def test_unequal_totals_are_cut():
    ticket = Ticket(key=b"k" * 32)

    def miscount(peer):
        honest = count_bytes(peer)
        counted = struct.unpack_from("<Q", honest, 32)[0]
        return ticket.results(peer.control_nonce, (counted - 1, 1, 1, 1, 1), [counted - 1, 0, 0, 0, 0])

    with slow_responder(ticket, miscount) as peer:
        _, result = run(setup_of(Probe.TCP_STREAM, peer.port, assignment_id=ticket.session_id.hex()))
    assert result.totals["receiver_bytes"] == result.totals["sent_bytes"] - 1
    assert all(Flag.CUT in window.flags for window in result.windows)


def test_a_responder_that_keeps_its_counts_to_itself_leaves_an_error():
    ticket = Ticket(key=b"k" * 32)

    def conceal(peer):
        bins = list(struct.unpack_from("<5Q", count_bytes(peer), 448))
        return ticket.results(peer.control_nonce, (), bins)

    with slow_responder(ticket, conceal) as peer:
        _, result = run(setup_of(Probe.TCP_STREAM, peer.port, assignment_id=ticket.session_id.hex()))
    assert isinstance(result.error, WireError)
    assert "did not tell its" in str(result.error)
    assert all(Flag.CUT in window.flags for window in result.windows)


def test_a_peer_that_goes_away_leaves_an_error(responder):
    setup = admitted(responder, Probe.TCP_STREAM, duration_ms=60_000)
    execution = prepare(setup)
    windows = execution.observe()
    next(windows)
    responder.revoke(bytes.fromhex(setup.instance.assignment_id))
    rest = list(windows)
    result = execution.result()
    assert isinstance(result.error, EngineError)
    assert Flag.ERROR in rest[-1].flags


@pytest.mark.parametrize("probe", NETWORK)
def test_not_being_admitted_leaves_an_error(responder, probe):
    seen, result = run(setup_of(probe, responder.port))
    assert seen == []
    assert isinstance(result.error, DeniedError)


@pytest.mark.parametrize("probe", NETWORK)
def test_a_stop_while_dialing_is_heard(responder, probe):
    execution = prepare(setup_of(probe, responder.port))
    execution.stop()
    assert list(execution.observe()) == []
    assert isinstance(execution.result().error, WireError)


@pytest.mark.parametrize("probe", NETWORK)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"key": b""}, "no key"),
        ({"assignment_id": "not hex"}, "'not hex'"),
        ({"direction": Direction.NONE}, "direction none is not measured: ask for forward"),
        ({"omit_ms": 75}, "omit_ms = 75"),
        ({"omit_ms": -1}, "omit_ms"),
        ({"unheard_of": 1}, "'unheard_of'"),
    ],
)
def test_what_cannot_be_measured_is_named(probe, change, named):
    with pytest.raises(UsageError, match=named):
        prepare(setup_of(probe, 1, **change))


@pytest.mark.parametrize(
    ("probe", "parameter", "value"),
    [
        (Probe.TCP_STREAM, "streams", 0),
        (Probe.TCP_STREAM, "streams", 65),
        (Probe.TCP_STREAM, "message_bytes", 0),
        (Probe.TCP_STREAM, "message_bytes", (1 << 20) + 1),
        (Probe.TCP_STREAM, "receive", "maybe"),
        (Probe.TCP_STREAM, "dscp", 64),
        (Probe.TCP_STREAM, "congestion", "sixteen-letters!"),
        (Probe.TCP_STREAM, "sndbuf_bytes", 1 << 31),
        (Probe.TCP_STREAM, "mss", -1),
        (Probe.TCP_RR, "wait", "sleep"),
        (Probe.TCP_RR, "request_bytes", 0),
        (Probe.TCP_RR, "response_bytes", (1 << 20) + 1),
        (Probe.TCP_RR, "rate_per_s", -1),
        (Probe.TCP_RR, "rate_per_s", "fast"),
        (Probe.TCP_RR, "rate_per_s", "nan"),
        (Probe.TCP_RR, "depth", 0),
        (Probe.TCP_RR, "connections", 1025),
        (Probe.TCP_RR, "arrival", "bursts"),
        (Probe.TCP_CRR, "request_bytes", 15),
        (Probe.TCP_CRR, "response_bytes", 16385),
    ],
)
def test_a_bad_parameter_is_named(probe, parameter, value):
    with pytest.raises(UsageError, match=parameter):
        prepare(setup_of(probe, 1, **{parameter: value}))
    with pytest.raises(UsageError, match=parameter):
        CATALOG[probe].cost({parameter: str(value)}, 1000)


def test_connections_are_whole(responder):
    _, result = run(admitted(responder, Probe.TCP_CRR, omit_ms=50))
    assert result.error is None
    assert result.totals["transactions"] == result.totals["receiver_transactions"] == total_of(result, "transactions")
    assert result.totals["transactions"] > 0
    assert "receiver_cpu_ns" not in result.totals
    assert not any(Flag.CUT in window.flags or Flag.ERROR in window.flags for window in result.windows)


def test_a_service_with_several_endpoints_is_no_target_for_connections(responder):
    setup = admitted(responder, Probe.TCP_CRR)
    with pytest.raises(UsageError, match="behind a Service"):
        prepare(replace(setup, peer=PeerAddress("127.0.0.1", responder.port, dials=20)))


def test_many_connections_in_depth_obey_littles_law(responder):
    asked = {"wait": "epoll", "connections": 5, "depth": 3, "omit_ms": 50, "duration_ms": 500}
    _, result = run(admitted(responder, Probe.TCP_RR, **asked))
    assert result.error is None
    assert not any(Flag.CUT in window.flags for window in result.windows)
    assert not any(Flag.LITTLE in window.flags for window in result.windows)


def test_a_stream_needs_an_end():
    with pytest.raises(UsageError, match="needs a duration"):
        prepare(setup_of(Probe.TCP_STREAM, 1, duration_ms=None))


def test_costs_bound_what_is_moved(responder):
    for probe, moved in ((Probe.TCP_STREAM, "sent_bytes"), (Probe.TCP_RR, "transactions")):
        _, result = run(admitted(responder, probe))
        cost = CATALOG[probe].cost({}, 200)
        assert 0 < result.totals[moved] < cost.network_bytes
        assert cost.disk_write_bytes == 0
        assert cost.seconds > 0.2
    assert CATALOG[Probe.TCP_RR].cost({"rate_per_s": "10", "request_bytes": "9"}, 2000).network_bytes == 200


@pytest.mark.parametrize("probe", NETWORK)
def test_every_metric_of_the_catalog_is_measured(responder, probe):
    known = {metric.name for metric in CATALOG[probe].metrics}
    found = set()
    for asked in ALL_METRICS[probe]:
        _, result = run(admitted(responder, probe, **asked))
        found |= set(result.totals)
        for window in result.windows:
            found |= {*window.counters, *window.histograms}
    assert known <= found <= known | {metric.name for metric in BESIDE}


@pytest.mark.parametrize("probe", NETWORK)
def test_nothing_of_an_execution_stays(responder, probe):
    assert_no_leak(lambda: run(admitted(responder, probe, duration_ms=10, interval_ms=10)), repeats=30)


def test_the_node_is_counted_at_both_ends(responder):
    _, result = run(admitted(responder, Probe.TCP_STREAM, duration_ms=1000, interval_ms=100))
    beside = {f"{end}node_{what}_ns" for end in ("", "responder_") for what in ("busy", "irq", "softirq", "baseline")}
    assert beside <= result.totals.keys()
    assert total_of(result, "node_busy_ns") == result.totals["node_busy_ns"] > 0
    assert result.totals["responder_node_busy_ns"] > 0
    spent = result.totals["cpu_ns"] + result.totals["receiver_cpu_ns"]
    assert result.totals["node_busy_ns"] > spent / 2  # both ends are on this node; ticks of 10 ms are coarse


def test_a_short_load_is_not_held_against_the_node(responder):
    _, result = run(admitted(responder, Probe.TCP_STREAM))
    assert not [name for name in result.totals if name.startswith("node_")]


@pytest.mark.parametrize("probe", NETWORK)
def test_threads_stay_where_they_are_put(responder, probe):
    cpu = min(os.sched_getaffinity(0))
    _, result = run(admitted(responder, probe, placement=cpu))
    assert {window.facts["placement"] for window in result.windows} == {str(cpu)}
    _, result = run(admitted(responder, probe, placement="nowhere"))
    assert isinstance(result.error, UsageError)
    assert "placement 'nowhere'" in str(result.error)
