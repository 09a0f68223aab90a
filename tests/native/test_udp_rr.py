"""udp_rr: every round trip timed in full; what is lost, late or repeated is counted, and holds up nothing."""

import struct
import time
from itertools import pairwise

import pytest
from tests.native.leaks import assert_no_leak
from tests.native.sessions import STOP_BOUND_S, engine_to
from tests.native.sessions import admitted as admitted_udp
from tests.native.slow_session import Ticket, until
from tests.native.slow_udp import slow_udp

from cvmprobe.errors import UnreachableError, UsageError
from cvmprobe.native.responder import Responder

MS = 1_000_000
WAITS = pytest.mark.parametrize("wait", ["block", "spin", "epoll"])


def admitted(responder, **parameters):
    return admitted_udp(responder, "udp_rr", timeout_ms=1000, **parameters)  # nothing is lost here, however late


def finished(engine):
    """Run to the end and return the last snapshot."""
    engine.arm()
    engine.start()
    until(lambda: engine.snapshot(engine.started_ns + 20 * MS).finished, "the engine has ended")
    engine.stop()
    assert engine.error is None
    return engine.snapshot()


@WAITS
@pytest.mark.parametrize("sizes", [(16, 16), (16, 9000), (65507, 16)])
def test_both_ends_agree(responder, wait, sizes):
    request, response = sizes
    engine = admitted(responder, wait=wait, request_bytes=request, response_bytes=response)
    total = finished(engine)
    counts = total.counters
    assert counts["transactions"] + counts["timeouts"] == counts["requests"] == engine.results["operations"] > 0
    assert engine.results["bytes"] == counts["requests"] * (request + response)
    assert engine.results["duplicates"] == engine.results["send_errors"] == 0
    assert total.histograms["latency_ns"].count == counts["transactions"]
    assert counts["late_responses"] == counts["timeouts"]
    assert counts["duplicates"] == counts["send_errors"] == 0
    assert "service_ns" not in total.histograms
    engine.close()


@pytest.mark.parametrize("wait", ["spin", "epoll"])
@pytest.mark.parametrize(("connections", "depth"), [(7, 1), (1, 9), (64, 4)])
def test_many_connections_and_depth_agree(responder, wait, connections, depth):
    engine = admitted(responder, wait=wait, connections=connections, depth=depth, raw_samples=True)
    total = finished(engine)
    assert total.counters["requests"] == engine.results["operations"] > 0
    rows = list(struct.iter_unpack("<QIBBH", engine.drain_samples()[0]))
    assert {row[4] for row in rows} == set(range(connections))
    latency = total.histograms["latency_ns"]
    in_flight = latency.sum / (max(row[0] + row[1] for row in rows) - engine.started_ns)
    assert connections * depth / 2 < in_flight < 2 * connections * depth, "Little's law, roughly in so short a run"
    engine.close()


@WAITS
@pytest.mark.parametrize("rate", [0, 100])
def test_a_known_delay_is_measured(wait, rate):
    with slow_udp(lambda number: [0.02]) as peer:
        engine = engine_to(peer.port, peer.ticket, wait=wait, rate_per_s=rate)
        latency = finished(engine).histograms["latency_ns"]
        engine.close()
    assert latency.count > 0
    assert latency.minimum >= 20 * MS
    assert latency.sum / latency.count < 100 * MS


@WAITS
@pytest.mark.parametrize("rate", [0, 200])
def test_a_lost_datagram_is_a_timeout_and_stalls_nothing(wait, rate):
    """Every fourth request is lost; all that follow it are answered."""
    with slow_udp(lambda number: [] if number % 4 == 1 else [0.001]) as peer:
        engine = engine_to(peer.port, peer.ticket, wait=wait, rate_per_s=rate, timeout_ms=60, duration_ms=500)
        total = finished(engine)
        counts = total.counters
        lost = sum(number % 4 == 1 for number in peer.requests)
        engine.close()
    assert lost > 0
    assert counts["timeouts"] - counts["late_responses"] == lost
    assert counts["transactions"] + counts["timeouts"] == counts["requests"] == len(peer.requests)
    if rate:  # in an open loop nobody waits for the lost one
        assert total.histograms["service_ns"].sum / total.histograms["service_ns"].count < 40 * MS


@WAITS
def test_late_and_repeated_responses_are_told_apart(wait):
    """The first comes twice, the second after its timeout, the third not at all, the fourth after its timeout twice."""
    fates = {0: [0.0, 0.01], 1: [0.15], 2: [], 3: [0.15, 0.16]}
    with slow_udp(lambda number: fates.get(number, [0.0])) as peer:
        engine = engine_to(peer.port, peer.ticket, wait=wait, timeout_ms=50, duration_ms=600)
        counts = finished(engine).counters
        engine.close()
    others = counts["timeouts"] - 3  # on a machine that is busy
    assert others >= 0
    assert 2 <= counts["late_responses"] <= 2 + others  # of these some are answered after the end
    assert counts["duplicates"] == 2
    assert counts["transactions"] + counts["timeouts"] == counts["requests"]


def test_an_open_loop_sends_on_through_a_stall():
    """Nothing is answered for a while; a closed loop would have sent one request meanwhile."""
    until_s = time.monotonic() + 1000

    def stalled(_number: int) -> list[float]:
        return [max(0.0, until_s - time.monotonic())]

    with slow_udp(stalled) as peer:
        engine = engine_to(peer.port, peer.ticket, rate_per_s=500, timeout_ms=1000, duration_ms=400)
        engine.arm()
        until_s = time.monotonic() + 0.2
        engine.start()
        until(lambda: engine.snapshot(engine.started_ns + 20 * MS).finished, "the engine has ended")
        engine.stop()
        total = engine.snapshot()
        engine.close()
    assert total.counters["timeouts"] == 0
    assert total.counters["transactions"] == total.counters["requests"] > 150
    assert total.histograms["latency_ns"].maximum > 100 * MS


def test_poisson_starts_are_spread(responder):
    engine = admitted(responder, rate_per_s=2000, poisson=True, raw_samples=True, duration_ms=500)
    total = finished(engine)
    rows = sorted(row[0] for row in struct.iter_unpack("<QIBBH", engine.drain_samples()[0]))
    engine.close()
    gaps = [after - before for before, after in pairwise(rows)]
    mean = sum(gaps) / len(gaps)
    assert 0.7e6 / 2 < mean < 1.4e6 / 2
    assert 0.6 < (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean < 1.5, "a deviation like the mean"
    assert total.histograms["service_ns"].count == total.counters["transactions"]


def test_kernel_stamps_split_the_wake_up_off(responder):
    engine = admitted(responder, kernel_stamps=True)
    histograms = finished(engine).histograms
    engine.close()
    assert 0 < histograms["wakeup_ns"].count <= histograms["latency_ns"].count
    assert histograms["wakeup_ns"].sum < histograms["latency_ns"].sum


def test_the_budget_binds(responder):
    engine = admitted(responder, max_bytes=10 * 32)
    assert finished(engine).counters["requests"] == 10
    engine.close()


def test_lost_openings_are_dialed_again():
    with slow_udp(lambda number: [0.0], openings_lost=2) as peer:
        engine = engine_to(peer.port, peer.ticket)
        assert finished(engine).counters["transactions"] > 0
        assert peer.dialed == 3
        engine.close()


def test_a_peer_without_udp_is_named():
    with slow_udp(lambda number: [0.0], openings_lost=1000) as peer:
        engine = engine_to(peer.port, peer.ticket)
        with pytest.raises(UnreachableError, match="not over UDP"):
            engine.arm()
        engine.close()


def test_a_closed_port_is_counted_as_refused():
    with slow_udp(lambda number: [0.0]) as peer:
        engine = engine_to(peer.port, peer.ticket, duration_ms=10_000, timeout_ms=20)
        engine.arm()
        peer._datagrams.close()
        engine.start()
        until(lambda: engine.snapshot().counters["refused"] > 0, "the network says that the port is closed")
        engine.stop()
        engine.close()


@WAITS
@pytest.mark.parametrize("rate", [0, 1000])
def test_it_stops_on_request(wait, rate):
    with slow_udp(lambda number: []) as peer:
        engine = engine_to(peer.port, peer.ticket, wait=wait, rate_per_s=rate, duration_ms=None)
        engine.arm()
        engine.start()
        until(lambda: engine.snapshot().counters["requests"] > 0, "it runs")
        begin = time.monotonic()
        engine.stop()
        assert time.monotonic() - begin < STOP_BOUND_S
        assert engine.results is None
        engine.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"request_bytes": 15}, "15 bytes in a request"),
        ({"response_bytes": 65508}, "65508 bytes"),
        ({"connections": 2}, "2 connections"),
        ({"wait": "epoll", "connections": 1025}, "1025 connections"),
        ({"wait": "epoll", "connections": 1024, "depth": 256}, "too many"),
        ({"depth": 0}, "0 requests under way"),
        ({"timeout_ms": 1001}, "1001 ms"),
        ({"rate_per_s": -1}, "-1"),
        ({"wait": "poll"}, "poll"),
    ],
)
def test_what_no_responder_keeps_is_named(change, named):
    with pytest.raises(UsageError, match=named):
        engine_to(1, Ticket("udp_rr"), **change)


def test_nothing_of_an_engine_stays():
    def live():
        responder = Responder("127.0.0.1")
        engine = admitted(responder, wait="epoll", connections=3, duration_ms=20, raw_samples=True, kernel_stamps=True)
        finished(engine)
        engine.drain_samples()
        engine.close()
        responder.close()

    assert_no_leak(live)
