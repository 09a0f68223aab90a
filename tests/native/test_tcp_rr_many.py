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
from tests.native.sessions import admitted, engine_to, watch
from tests.native.slow_session import SlowInitiator, Terms, Ticket, read_exactly, slow_responder, until

from cvmprobe.errors import UsageError
from cvmprobe.native.histogram import bucket_upper

LOADS = [("block", 1, 7), ("spin", 1, 256), ("epoll", 1, 1), ("epoll", 40, 1), ("epoll", 9, 12), ("spin", 12, 5)]


@pytest.mark.parametrize(("wait", "connections", "depth"), LOADS)
@pytest.mark.parametrize(("request_bytes", "response_bytes"), [(1, 1), (700, 30_000)])
def test_all_connections_agree_with_the_responder(responder, wait, connections, depth, request_bytes, response_bytes):
    engine = admitted(
        responder,
        "tcp_rr",
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
    engine = admitted(responder, "tcp_rr", wait=wait, connections=connections, depth=depth, duration_ms=400)
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
        engine = engine_to(peer.port, ticket, wait=wait, connections=3, depth=4, duration_ms=300, raw_samples=True)
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


@pytest.mark.parametrize("wait", ["block", "epoll", "spin"])
def test_a_stall_shows_from_the_intended_start_and_hides_in_the_service_time(wait):
    """Open loop at 90 % of what a responder of 5 ms a request can do, and one stall of 50 ms.

    Whoever was meant to start meanwhile waits, and so does who comes after, for a tenth of the capacity is all there is
    to catch up with. Of the service times only the stall's own is long.
    """
    ticket, service_s, stall_s = Ticket("tcp_rr"), 0.005, 0.05
    rate = 0.9 / service_s

    def serve(peer) -> bytes:
        served, sock = 0, peer.data[0]
        while read_exactly(sock, 1):
            time.sleep(service_s + (stall_s if served == 20 else 0))
            sock.sendall(b"x")
            served += 1
        return peer.ticket.results(peer.control_nonce, (2 * served, served, 1, 2, 3), [])

    with slow_responder(ticket, serve) as peer:
        engine = engine_to(peer.port, ticket, wait=wait, rate_per_s=rate, duration_ms=1000)
        *_, total = watch(engine)
        engine.close()
    latency, service = total.histograms["latency_ns"], total.histograms["service_ns"]
    assert latency.count == service.count == total.counters["transactions"]
    assert service.maximum >= stall_s * 1e9
    stalled_ns = stall_s * 1e9 / 2
    assert over(latency, stalled_ns) >= rate * stall_s / 2 - 1, "these were meant to start in the stall's first half"
    assert over(service, stalled_ns) <= over(latency, stalled_ns) / 4
    assert total.counters["late_operations"] >= rate * stall_s - 2


def over(histogram, bound_ns) -> int:
    """How many values are above a bound, to the width of a bucket."""
    return sum(n for i, n in zip(*histogram.sparse(), strict=True) if bucket_upper(i) > bound_ns)


def poisson_offsets(session_id, period_ns):
    """Starts of the process that this session's id begins: splitmix64, and the logarithm of what it gives."""
    state, offset, mask = int.from_bytes(session_id[:8], "little"), 0.0, (1 << 64) - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        offset -= math.log(((z >> 11) + 0.5) * 2**-53) * period_ns
        yield offset


@pytest.mark.parametrize("wait", ["block", "epoll", "spin"])
def test_poisson_starts_are_those_of_the_seed(responder, wait):
    ticket = admit(responder, Ticket("tcp_rr"))
    engine = engine_to(responder.port, ticket, wait=wait, rate_per_s=2000, poisson=True, raw_samples=True)
    *_, total = watch(engine)
    starts = [row[0] - engine.started_ns for row in struct.iter_unpack("<QIBBH", engine.drain_samples()[0])]
    engine.close()
    assert total.counters["transactions"] == len(starts) > 0
    truth = itertools.islice(poisson_offsets(ticket.session_id, 500_000), len(starts))
    assert starts == pytest.approx(list(truth), abs=2)


@pytest.mark.parametrize("wait", ["block", "epoll", "spin"])
def test_kernel_stamps_tell_the_wake_up_from_the_way(responder, wait):
    engine = admitted(responder, "tcp_rr", wait=wait, kernel_stamps=True)
    *_, total = watch(engine)
    engine.close()
    latency, wakeup = total.histograms["latency_ns"], total.histograms["wakeup_ns"]
    assert 0 < wakeup.count <= latency.count
    assert wakeup.sum / wakeup.count < latency.sum / latency.count
    assert wakeup.maximum <= latency.maximum


def test_without_kernel_stamps_there_is_no_wake_up_time(responder):
    engine = admitted(responder, "tcp_rr")
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
    engine = admitted(responder, "tcp_rr", wait="epoll", connections=200, duration_ms=None)
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
        engine_to(1, Ticket("tcp_rr"), **change)


def test_nothing_of_many_connections_stays(responder):
    def live():
        engine = admitted(
            responder, "tcp_rr", duration_ms=5, wait="epoll", connections=8, depth=4, kernel_stamps=True, poisson=True
        )
        watch(engine)
        engine.close()
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(live)
