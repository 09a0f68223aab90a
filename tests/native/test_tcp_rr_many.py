"""tcp_rr with many connections and many requests under way on each: all are answered, in order, and add up."""

import itertools
import math
import socket
import struct
import threading
import time

import pytest
from tests.native.admitting import admit
from tests.native.leaks import assert_no_leak, threads
from tests.native.slow_session import SlowInitiator, Terms, Ticket, read_exactly, slow_responder, until
from tests.native.test_tcp_rr import admitted, rr_to, watch

from cvmprobe.errors import UsageError
from cvmprobe.native.histogram import bucket_upper

LOADS = [("block", 1, 7), ("spin", 1, 256), ("epoll", 1, 1), ("epoll", 40, 1), ("epoll", 9, 12), ("spin", 12, 5)]
STALL_S = 0.05


@pytest.mark.parametrize(("wait", "connections", "depth"), LOADS)
@pytest.mark.parametrize(("request_bytes", "response_bytes"), [(1, 1), (700, 30_000)])
def test_all_connections_agree_with_the_responder(responder, wait, connections, depth, request_bytes, response_bytes):
    engine = admitted(
        responder,
        wait=wait,
        connections=connections,
        depth=depth,
        request_bytes=request_bytes,
        response_bytes=response_bytes,
        raw_samples=True,
    )
    *_, total = watch(engine)
    rows, lost = engine.drain_samples()
    assert engine.error is None
    assert total.counters["transactions"] == engine.results["operations"] == total.histograms["latency_ns"].count
    assert engine.results["bytes"] == total.counters["transactions"] * (request_bytes + response_bytes)
    assert engine.results["retransmitted_segments"] >= 0
    assert total.counters["retransmitted_segments"] >= 0
    assert {row[4] for row in struct.iter_unpack("<QIBBH", rows)} == set(range(connections))
    assert lost == 0
    assert engine.facts["connections"] == str(connections)
    assert engine.facts["depth"] == str(depth)
    engine.close()


@pytest.mark.parametrize(("wait", "connections", "depth"), LOADS[:-1])
def test_littles_law_holds(responder, wait, connections, depth):
    """What was spent waiting, over the time it took, is what was under way: no wait is lost, none counted twice."""
    engine = admitted(responder, wait=wait, connections=connections, depth=depth, duration_ms=400)
    engine.arm()
    engine.start()
    first, last = (engine.snapshot(engine.started_ns + ms * 1_000_000) for ms in (100, 350))
    engine.close()
    spent = last.histograms["latency_ns"].sum - first.histograms["latency_ns"].sum
    longest = last.histograms["latency_ns"].maximum
    elapsed = last.t_ns - first.t_ns
    edges = 2 * longest / elapsed  # a wait belongs to the moment it ends at
    assert spent / elapsed / (connections * depth) == pytest.approx(1, abs=0.01 + edges)


def echoes_in_order(peer) -> bytes:
    """Every connection answers what it gets; the first one late, so that others overtake it."""
    served = [0] * len(peer.data)

    def serve(index: int, sock: socket.socket) -> None:
        while piece := sock.recv(1):
            time.sleep(0.02 if index == 0 else 0)
            sock.sendall(piece)
            served[index] += 1

    threads = [threading.Thread(target=serve, args=item) for item in enumerate(peer.data)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return peer.ticket.results(peer.control_nonce, (2 * sum(served), sum(served), 1, 2, 3), [])


@pytest.mark.parametrize("wait", ["epoll", "spin"])
def test_a_slow_connection_holds_up_no_other(wait):
    ticket = Ticket("tcp_rr")
    with slow_responder(ticket, echoes_in_order) as peer:
        engine = rr_to(peer.port, ticket, wait=wait, connections=3, depth=4, duration_ms=300, raw_samples=True)
        *_, total = watch(engine)
        assert engine.results["operations"] == total.counters["transactions"]
        rows = list(struct.iter_unpack("<QIBBH", engine.drain_samples()[0]))
        engine.close()
    slow = [row for row in rows if row[4] == 0]
    assert min(row[1] for row in slow) >= 0.02 * 1e9
    assert len(slow) <= 0.3 / 0.02 + 4
    assert all(sum(row[4] == index for row in rows) > len(slow) for index in (1, 2))
    for index in range(3):  # in order: who started first has ended first
        ends = [(start, start + took) for start, took, *_, aux in rows if aux == index]
        assert sorted(ends) == sorted(ends, key=lambda pair: pair[1])


@pytest.mark.parametrize(("wait", "connections", "depth"), [("block", 1, 1), ("epoll", 1, 1), ("spin", 1, 1)])
def test_a_stall_shows_from_the_intended_start_and_hides_in_the_service_time(wait, connections, depth):
    """Open loop at 90 % of what a responder of 1 ms a request can do, and one stall of 50 ms.

    Whoever was meant to start meanwhile waited: about 45 of 450, a tenth. In the service times it is one in 450.
    """
    ticket, service_s, rate = Ticket("tcp_rr"), 0.001, 900

    def serve(peer) -> bytes:
        served, sock = 0, peer.data[0]
        while read_exactly(sock, 1):
            time.sleep(STALL_S if served == 100 else 0)
            end = time.perf_counter() + service_s / 10
            while time.perf_counter() < end:
                pass
            sock.sendall(b"x")
            served += 1
        return peer.ticket.results(peer.control_nonce, (2 * served, served, 1, 2, 3), [])

    with slow_responder(ticket, serve) as peer:
        engine = rr_to(
            peer.port, ticket, wait=wait, connections=connections, depth=depth, rate_per_s=rate, duration_ms=500
        )
        *_, total = watch(engine)
        engine.close()
    latency, service = total.histograms["latency_ns"], total.histograms["service_ns"]
    assert latency.count == service.count > 400
    stalled = STALL_S * 1e9 / 2
    assert over(latency, stalled) >= 0.9 * rate * STALL_S / 2
    assert over(service, stalled) < over(latency, stalled) / 4
    assert total.counters["late_operations"] >= 0.9 * (rate * STALL_S - 2)
    assert service.maximum >= STALL_S * 1e9


def over(histogram, bound_ns) -> int:
    """How many values are above a bound, to the width of a bucket."""
    return sum(n for i, n in zip(*histogram.sparse(), strict=True) if bucket_upper(i) > bound_ns)


@pytest.mark.parametrize("wait", ["block", "epoll", "spin"])
def test_poisson_starts_are_those_of_the_seed(responder, wait):
    engine = admitted(responder, wait=wait, rate_per_s=2000, poisson=True, duration_ms=250, raw_samples=True)
    *_, total = watch(engine)
    starts = [row[0] for row in struct.iter_unpack("<QIBBH", engine.drain_samples()[0])]
    engine.close()
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert total.counters["transactions"] == len(starts)
    assert sum(gaps) / len(gaps) == pytest.approx(500_000, rel=0.3)
    deviation = math.sqrt(sum((gap - 500_000) ** 2 for gap in gaps) / len(gaps))
    assert deviation > 250_000, "gaps of a Poisson process scatter as widely as their mean"


@pytest.mark.parametrize("wait", ["block", "epoll", "spin"])
def test_kernel_stamps_tell_the_wake_up_from_the_way(responder, wait):
    engine = admitted(responder, wait=wait, kernel_stamps=True)
    *_, total = watch(engine)
    engine.close()
    latency, wakeup = total.histograms["latency_ns"], total.histograms["wakeup_ns"]
    assert 0 < wakeup.count <= latency.count
    assert wakeup.sum / wakeup.count < latency.sum / latency.count
    assert wakeup.maximum <= latency.maximum


def test_without_kernel_stamps_there_is_no_wake_up_time(responder):
    engine = admitted(responder)
    *_, total = watch(engine)
    engine.close()
    assert "wakeup_ns" not in total.histograms


@pytest.mark.parametrize("sockets", [1, 3])
@pytest.mark.parametrize("wait", [0, 1, 2], ids=["block", "spin", "epoll"])
def test_requests_in_pieces_and_in_heaps_are_answered(responder, sockets, wait):
    ticket = admit(responder, Ticket("tcp_rr"))
    terms = Terms(sockets=sockets, wait=wait, request_bytes=10, response_bytes=3)
    with SlowInitiator(responder.port, ticket, terms) as initiator:
        for sock in initiator.data:
            sock.sendall(bytes(10 * 1000))
        for sock in initiator.data:
            assert len(read_exactly(sock, 3 * 1000)) == 3 * 1000
        for sock in initiator.data:
            sock.sendall(bytes(4))
        for sock in initiator.data:
            sock.sendall(bytes(16))
            assert len(read_exactly(sock, 6)) == 6
            sock.sendall(bytes(10))  # the last one and the FIN come together
        counts, _ = initiator.drain()
        assert all(read_exactly(sock, 4) == bytes(3) for sock in initiator.data)
    assert counts[0] == sockets * 1003 * 13
    assert counts[1] == sockets * 1003


@pytest.mark.parametrize("sockets", [1, 3])
@pytest.mark.parametrize("wait", [0, 1, 2], ids=["block", "spin", "epoll"])
def test_a_request_that_stays_half_cuts_the_session(responder, sockets, wait):
    ticket = admit(responder, Ticket("tcp_rr"))
    terms = Terms(sockets=sockets, wait=wait, request_bytes=10, response_bytes=3)
    with SlowInitiator(responder.port, ticket, terms) as initiator:
        initiator.data[-1].sendall(bytes(4))
        assert initiator.drain() is None
    until(lambda: responder.counters()["active"] == 0, "the responder is done")


def test_one_thread_serves_all_connections(responder):
    before = responder.counters()["sessions"]
    before_threads = threads()
    engine = admitted(responder, wait="epoll", connections=200, duration_ms=None)
    engine.arm()
    engine.start()
    assert responder.counters()["sessions"] == before + 1
    assert threads() - before_threads <= 3  # two of the engine, one of the session
    engine.close()
    until(lambda: responder.counters()["active"] == 0, "the responder is done")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"connections": 0}, "0 connections"),
        ({"connections": 1025}, "1025 connections"),
        ({"depth": 0}, "depth 0"),
        ({"depth": 257}, "depth 257"),
        ({"wait": "poll"}, "wait 'poll'"),
        ({"connections": 2}, "wait=epoll"),
        ({"depth": 2, "rate_per_s": 10}, "wait=epoll"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(change, named):
    with pytest.raises(UsageError, match=named):
        rr_to(1, Ticket("tcp_rr"), **change)


def test_nothing_of_many_connections_stays(responder):
    def live():
        engine = admitted(
            responder, duration_ms=5, wait="epoll", connections=8, depth=4, kernel_stamps=True, poisson=True
        )
        watch(engine)
        engine.close()
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(live)
