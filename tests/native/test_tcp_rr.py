"""tcp_rr: every round trip timed in full, late starts charged, nothing lost between windows."""

import struct
import threading
import time
from itertools import pairwise

import pytest
from tests.native.admitting import admit
from tests.native.leaks import assert_no_leak
from tests.native.sessions import STOP_BOUND_S, admitted, engine_to, watch
from tests.native.slow_session import SlowResponder, Terms, Ticket, read_exactly, slow_responder, until

from cvmprobe.errors import UsageError

WAIT_CODES = {"block": 0, "spin": 1, "epoll": 2}
WAITS = pytest.mark.parametrize("wait", ["block", "spin", "epoll"])


def echo(delays_s, request_bytes=1, response_bytes=1):
    """Answer each request after the next of these delays; the last one stays."""

    def serve(peer: SlowResponder) -> bytes:
        sock, served = peer.data[0], 0
        while len(read_exactly(sock, request_bytes)) == request_bytes:
            time.sleep(delays_s[min(served, len(delays_s) - 1)])
            sock.sendall(bytes(response_bytes))
            served += 1
        moved = served * (request_bytes + response_bytes)
        return peer.ticket.results(peer.control_nonce, (moved, served, 1, 2, 3), [])

    return serve


def rows_of(engine) -> list[tuple[int, int, int, int, int]]:
    rows, lost = engine.drain_samples()
    assert lost == 0
    return list(struct.iter_unpack("<QIBBH", rows))


@WAITS
@pytest.mark.parametrize(("request_bytes", "response_bytes"), [(1, 1), (1, 4000), (70_000, 3), (1 << 20, 1 << 20)])
def test_both_ends_and_all_windows_agree(responder, wait, request_bytes, response_bytes):
    engine = admitted(responder, "tcp_rr", wait=wait, request_bytes=request_bytes, response_bytes=response_bytes)
    *seen, total = watch(engine)
    counts = [shot.counters["transactions"] for shot in seen]
    windows = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    assert sum(windows) == total.counters["transactions"] == engine.results["operations"] > 0
    assert engine.results["bytes"] == total.counters["transactions"] * (request_bytes + response_bytes)
    assert total.histograms["latency_ns"].count == total.counters["transactions"]
    assert "late_operations" not in total.counters
    assert "service_ns" not in total.histograms
    assert engine.error is None
    assert engine.facts["wait"] == wait
    assert engine.facts["congestion_control"]
    engine.close()


@WAITS
@pytest.mark.parametrize(("request_bytes", "response_bytes"), [(1, 1), (3000, 100_000)])
def test_a_known_delay_is_measured(wait, request_bytes, response_bytes):
    ticket, delay_s = Ticket("tcp_rr"), 0.02
    with slow_responder(ticket, echo([delay_s], request_bytes, response_bytes)) as peer:
        engine = engine_to(
            peer.port,
            ticket,
            duration_ms=300,
            wait=wait,
            request_bytes=request_bytes,
            response_bytes=response_bytes,
            raw_samples=True,
        )
        *_, total = watch(engine)
        assert peer.terms == Terms(
            wait=WAIT_CODES[wait],
            interval_ms=1000,
            duration_ms=300,
            request_bytes=request_bytes,
            response_bytes=response_bytes,
        )
        rows = rows_of(engine)
        engine.close()
    latency = total.histograms["latency_ns"]
    assert latency.minimum >= delay_s * 1e9
    assert latency.sum / latency.count < 5 * delay_s * 1e9
    assert min(row[1] for row in rows) == latency.minimum
    assert sum(row[1] for row in rows) == latency.sum
    assert len(rows) == latency.count == total.counters["transactions"]


def test_a_closed_loop_leaves_no_time_uncounted(responder):
    """One clock read ends a transaction and starts the next, so the latencies fill the time they took."""
    engine = admitted(responder, "tcp_rr", raw_samples=True)
    watch(engine)
    rows = rows_of(engine)
    engine.close()
    assert len(rows) > 1
    assert all(first[0] + first[1] == second[0] for first, second in pairwise(rows))
    assert {row[2:] for row in rows} == {(0, 0, 0)}


def test_pacing_keeps_the_intended_starts(responder):
    engine = admitted(responder, "tcp_rr", rate_per_s=200, duration_ms=250, raw_samples=True)
    *_, total = watch(engine)
    starts = [row[0] for row in rows_of(engine)]
    assert starts == [engine.started_ns + index * 5_000_000 for index in range(len(starts))]
    assert total.counters["transactions"] == total.histograms["service_ns"].count == len(starts)
    assert 20 <= len(starts) <= 50
    engine.close()


def test_a_stall_is_charged_to_all_who_waited():
    """One answer that takes 300 ms at 100 transactions a second delays 30 starts: no coordinated omission."""
    ticket = Ticket("tcp_rr")
    with slow_responder(ticket, echo([0, 0, 0, 0, 0, 0.3, 0])) as peer:
        engine = engine_to(peer.port, ticket, rate_per_s=100, duration_ms=600, raw_samples=True)
        *_, total = watch(engine)
        rows = rows_of(engine)
        engine.close()
    assert total.counters["transactions"] == len(rows) > 30
    stalled = rows[5]
    assert stalled[1] >= 300_000_000
    for index in range(6, 30):
        assert rows[index][1] >= stalled[0] + stalled[1] - rows[index][0], f"transaction {index} was not charged"
    assert total.counters["late_operations"] >= 24
    service = total.histograms["service_ns"]
    assert service.sum < total.histograms["latency_ns"].sum / 3
    assert service.maximum >= 300_000_000


def test_an_answer_that_takes_over_a_second_is_a_timeout():
    ticket = Ticket("tcp_rr")
    with slow_responder(ticket, echo([0, 1.2, 0])) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=1300)
        *_, total = watch(engine, interval_ms=1000)
        engine.close()
    assert total.counters["timeouts"] == 1
    assert total.counters["transactions"] > 2
    assert total.histograms["latency_ns"].maximum >= 1_200_000_000


@WAITS
def test_a_transaction_under_way_at_the_deadline_is_waited_for(wait):
    ticket = Ticket("tcp_rr")
    with slow_responder(ticket, echo([0.3])) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=50, wait=wait)
        *_, total = watch(engine)
        assert total.counters["transactions"] == engine.results["operations"] == 1
        engine.close()


@WAITS
def test_stop_acts_beside_a_silent_peer(wait):
    ticket = Ticket("tcp_rr")
    with slow_responder(ticket, lambda peer: peer.over.wait() and None) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=None, wait=wait)
        engine.arm()
        engine.start()
        engine.snapshot(engine.started_ns + 20_000_000)
        begin = time.monotonic()
        engine.stop()
        assert time.monotonic() - begin < STOP_BOUND_S
        assert engine.snapshot().counters["transactions"] == 0
        assert engine.error is None
        engine.close()


def test_it_goes_on_until_stopped(responder):
    engine = admitted(responder, "tcp_rr", duration_ms=None, rate_per_s=1000)
    engine.arm()
    engine.start()
    first = engine.snapshot(engine.started_ns + 30_000_000)
    second = engine.snapshot(engine.started_ns + 60_000_000)
    assert not second.finished
    assert second.counters["transactions"] > first.counters["transactions"] > 0
    engine.stop()
    assert engine.error is None
    assert engine.results is None
    engine.close()
    until(lambda: responder.counters()["active"] == 0, "the responder is done")


@pytest.mark.parametrize("max_bytes", [0, 1, 2, 2001])
def test_the_byte_cap_binds(responder, max_bytes):
    engine = admitted(responder, "tcp_rr", max_bytes=max_bytes, duration_ms=20_000)
    *_, total = watch(engine, interval_ms=20_000)
    assert total.counters["transactions"] == engine.results["operations"] == max_bytes // 2
    engine.close()


@WAITS
def test_a_peer_that_goes_away_is_an_error(responder, wait):
    ticket = admit(responder, Ticket("tcp_rr"))
    engine = engine_to(responder.port, ticket, duration_ms=None, wait=wait)
    engine.arm()
    engine.start()
    responder.revoke(ticket.session_id)
    assert engine.snapshot(engine.started_ns + 30_000_000_000).finished
    assert engine.error is not None
    engine.close()


def test_a_slow_session_does_not_slow_another(responder):
    """Ten idle sessions and one whose initiator never reads; the eleventh measures on."""
    idle = [admitted(responder, "tcp_rr", duration_ms=None, rate_per_s=0.1) for _ in range(10)]
    for engine in idle:
        engine.arm()
        engine.start()
    engine = admitted(responder, "tcp_rr")
    *_, total = watch(engine)
    assert total.counters["transactions"] == engine.results["operations"] > 0
    for other in (*idle, engine):
        other.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"request_bytes": 0}, "request of 0"),
        ({"response_bytes": (1 << 20) + 1}, "response of 1048577"),
        ({"rate_per_s": -1}, "-1"),
        ({"rate_per_s": 2e6}, "2000000"),
        ({"rate_per_s": float("nan")}, "nan"),
        ({"duration_ms": 24 * 3600 * 1000 + 1}, "terms"),
    ],
)
def test_what_no_responder_keeps_is_refused_at_once(change, named):
    with pytest.raises(UsageError, match=named):
        engine_to(1, Ticket("tcp_rr"), **change)


def test_nothing_of_round_trips_stays(responder):
    def live():
        engine = admitted(responder, "tcp_rr", duration_ms=5, raw_samples=True, rate_per_s=1000)
        watch(engine)
        engine.drain_samples()
        engine.close()
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(live)


def test_engines_may_be_used_from_many_threads(responder):
    engines = [admitted(responder, "tcp_rr", duration_ms=50) for _ in range(8)]
    totals = []
    threads = [threading.Thread(target=lambda e=engine: totals.append(watch(e)[-1])) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(total.counters["transactions"] for total in totals) == sorted(
        engine.results["operations"] for engine in engines
    )
    for engine in engines:
        engine.close()


def test_a_peer_that_acknowledges_and_does_not_answer_is_told(responder):
    def deaf(peer):
        peer.over.wait(30)

    ticket = Ticket("tcp_rr")
    with slow_responder(ticket, deaf) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=None)
        engine.arm()
        engine.start()
        until(lambda: engine.snapshot().counters["unanswered_ns"] > 0, "silence is counted")
        assert engine.snapshot().counters["no_ack_ns"] == 0
        engine.stop()
        engine.close()
