"""tcp_crr: every connection timed in its parts, answered under a token only, closed by the responder first."""

import contextlib
import hmac
import os
import socket
import struct
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from tests.native.admitting import admit, counted
from tests.native.leaks import assert_no_leak
from tests.native.sessions import STOP_BOUND_S, admitted, engine_to, watch
from tests.native.slow_session import SlowInitiator, Terms, Ticket, connect, read_exactly, slow_responder, until

from cvmprobe.errors import EngineError, UsageError
from cvmprobe.native import tcp_crr
from cvmprobe.native.responder import Responder

SHORT = Terms(request_bytes=16, response_bytes=5)


def token_of(ticket, hello) -> bytes:
    return b"CVMC" + hmac.new(ticket.key, b"tcp_crr" + hello[64:96], "sha256").digest()[:12]


class CrrInitiator(SlowInitiator):
    """Remembers its control hello, from which the token comes."""

    def __init__(self, port, ticket, terms) -> None:
        super().__init__(port, ticket, terms)
        head = ticket.hello(0, self.nonce, self.nonce, terms)
        self.token = token_of(ticket, head)


def answer(port, request) -> bytes:
    """All that comes back for a request, up to the responder's FIN; we have not closed by then."""
    with connect(port) as sock:
        sock.sendall(request)
        return read_exactly(sock, 1 << 20)


@pytest.mark.parametrize(("request_bytes", "response_bytes"), [(16, 1), (16, 16), (97, 3), (16_384, 16_384)])
def test_both_ends_and_all_windows_agree(responder, request_bytes, response_bytes):
    engine = admitted(
        responder, "tcp_crr", request_bytes=request_bytes, response_bytes=response_bytes, raw_samples=True
    )
    *seen, total = watch(engine)
    counts = [shot.counters["transactions"] for shot in seen]
    windows = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    assert engine.error is None
    assert sum(windows) == total.counters["transactions"] == engine.results["operations"] > 0
    assert engine.results["bytes"] == total.counters["transactions"] * (request_bytes + response_bytes)
    assert "cpu_ns" not in engine.results, "the responder's thread answers for all sessions together"
    parts = [total.histograms[name] for name in ("connect_ns", "first_byte_ns", "latency_ns")]
    assert {part.count for part in parts} == {total.counters["transactions"]}
    assert parts[0].sum < parts[1].sum < parts[2].sum
    assert total.counters["ports_short"] == total.counters["timeouts"] == 0
    assert "service_ns" not in total.histograms
    assert "ended" not in engine.facts
    rows = list(struct.iter_unpack("<QIBBH", engine.drain_samples()[0]))
    assert all(first[0] + first[1] == second[0] for first, second in pairwise(rows))
    engine.close()


def test_it_works_over_ipv6():
    try:
        responder = Responder("::1")
    except EngineError as refusal:
        pytest.skip(f"no IPv6 loopback: {refusal}")
    engine = admitted(responder, "tcp_crr", host="::1")
    *_, total = watch(engine)
    assert total.counters["transactions"] == engine.results["operations"] > 0
    engine.close()
    responder.close()


def test_a_token_is_answered_and_the_responder_closes_first(responder):
    ticket = admit(responder, Ticket("tcp_crr"))
    with CrrInitiator(responder.port, ticket, SHORT) as initiator:
        assert answer(responder.port, initiator.token) == bytes(5)
        with connect(responder.port) as slow:  # a byte at a time, and others are not kept waiting
            for index in range(16):
                slow.sendall(initiator.token[index : index + 1])
                if index == 8:
                    assert answer(responder.port, initiator.token) == bytes(5)
            assert read_exactly(slow, 100) == bytes(5)
        counts, _ = initiator.drain()
    assert counts[:2] == (3 * 21, 3)


@pytest.mark.parametrize("spoil", [lambda t: t[:15] + bytes([t[15] ^ 1]), lambda t: t[:4] + bytes(12)])
def test_an_unknown_token_gets_nothing(responder, spoil):
    ticket = admit(responder, Ticket("tcp_crr"))
    with CrrInitiator(responder.port, ticket, SHORT) as initiator:
        assert answer(responder.port, spoil(initiator.token)) == b""
        counted(responder, "unknown", 1)
        counts, _ = initiator.drain()
    assert counts[:2] == (0, 0)


def test_a_token_lives_as_long_as_its_session(responder):
    ticket = admit(responder, Ticket("tcp_crr"))
    with CrrInitiator(responder.port, ticket, SHORT) as initiator:
        token = initiator.token
        assert answer(responder.port, token) == bytes(5)
    until(lambda: responder.counters()["active"] == 0, "the responder is done")
    assert answer(responder.port, token) == b""


def test_more_than_the_request_is_no_transaction(responder):
    ticket = admit(responder, Ticket("tcp_crr"))
    with CrrInitiator(responder.port, ticket, SHORT) as initiator, connect(responder.port) as sock:
        sock.sendall(initiator.token[:4])
        counted(responder, "connections", 3)
        sock.sendall(initiator.token[4:] + b"x")
        read_exactly(sock, 100)
        counts, _ = initiator.drain()
    assert counts[1] <= 1


def test_the_responders_budget_binds(responder):
    ticket = admit(responder, Ticket("tcp_crr"), max_bytes=100)
    with CrrInitiator(responder.port, ticket, SHORT) as initiator:
        answers = [answer(responder.port, initiator.token) for _ in range(10)]
    assert b"".join(answers) == bytes(5 * 5), "four fit, the fifth goes over the cap and ends the session"


@pytest.mark.parametrize("max_bytes", [0, 31, 32, 3200])
def test_the_initiators_budget_binds(responder, max_bytes):
    engine = admitted(responder, "tcp_crr", max_bytes=max_bytes, duration_ms=20_000)
    *_, total = watch(engine, interval_ms=20_000)
    assert total.counters["transactions"] == engine.results["operations"] == max_bytes // 32
    engine.close()


def test_it_stops_before_ports_run_short(responder, tmp_path, monkeypatch):
    ports = tmp_path / "ip_local_port_range"
    ports.write_text("40000\t40199\n")
    monkeypatch.setattr(tcp_crr, "PORT_RANGE", ports)
    engine = admitted(responder, "tcp_crr", duration_ms=20_000)
    *_, total = watch(engine, interval_ms=20_000)
    assert engine.error is None
    assert total.counters["transactions"] == engine.results["operations"] == 180
    assert total.counters["ports_short"] == 1
    assert "of 200 in ip_local_port_range" in engine.facts["ended"]
    engine.close()


def serve_each(delays_s, response_bytes=16):
    """Accept, wait, answer, close; the last of the delays stays."""

    def serve(peer) -> bytes | None:
        served, ended, drained = 0, threading.Event(), threading.Event()

        def watch_end() -> None:
            with contextlib.suppress(OSError):  # an initiator that failed tears its session down
                peer.data[0].recv(1)
                drained.set()
            ended.set()

        watcher = threading.Thread(target=watch_end)
        watcher.start()
        peer._listener.settimeout(0.05)
        while not ended.is_set():
            try:
                sock, _ = peer._listener.accept()
            except TimeoutError:
                continue
            with sock:
                sock.settimeout(30)
                request = read_exactly(sock, 16)
                assert request[:4] == b"CVMC"
                time.sleep(delays_s[min(served, len(delays_s) - 1)])
                sock.sendall(bytes(response_bytes))
            served += 1
        watcher.join()
        results = peer.ticket.results(peer.control_nonce, (served * 32, served, 1, 2, 3), [])
        return results if drained.is_set() else None

    return serve


def test_a_known_delay_is_in_the_first_byte_and_not_in_the_connect():
    ticket, delay_s = Ticket("tcp_crr"), 0.02
    with slow_responder(ticket, serve_each([delay_s])) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=300)
        *_, total = watch(engine)
        assert engine.results["operations"] == total.counters["transactions"] > 2
        engine.close()
    assert total.histograms["first_byte_ns"].minimum >= delay_s * 1e9
    assert total.histograms["latency_ns"].minimum >= delay_s * 1e9
    connects = total.histograms["connect_ns"]
    assert connects.sum < total.histograms["first_byte_ns"].sum - connects.count * delay_s * 1e9 * 0.99


def test_a_stall_is_charged_to_all_who_waited():
    ticket = Ticket("tcp_crr")
    with slow_responder(ticket, serve_each([0, 0, 0, 0.3, 0])) as peer:
        engine = engine_to(peer.port, ticket, rate_per_s=100, duration_ms=600)
        *_, total = watch(engine)
        engine.close()
    assert total.counters["late_operations"] >= 24
    assert total.histograms["service_ns"].sum < total.histograms["latency_ns"].sum / 3


def test_a_response_that_is_too_short_is_an_error():
    ticket = Ticket("tcp_crr")
    with slow_responder(ticket, serve_each([0], response_bytes=15)) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=20_000)
        engine.arm()
        engine.start()
        until(lambda: engine.error is not None, "the engine has failed")
        assert engine.error[0] == "recv the whole response"
        engine.close()


def test_stop_acts_beside_a_silent_peer():
    ticket = Ticket("tcp_crr")
    with slow_responder(ticket, lambda peer: peer.over.wait() and None) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=None)
        engine.arm()
        engine.start()
        engine.snapshot(engine.started_ns + 20_000_000)
        begin = time.monotonic()
        engine.stop()
        assert time.monotonic() - begin < STOP_BOUND_S
        assert engine.snapshot().counters["transactions"] == 0
        assert engine.error is None
        engine.close()


def dropped_syns() -> int:
    """Connections that found a listener's queue full, in this network namespace."""
    names, counts = (line.split() for line in Path("/proc/net/netstat").read_text().splitlines()[:2])
    return int(dict(zip(names, counts, strict=True))["ListenDrops"])


def test_a_silent_peer_is_a_timeout_and_a_syn_that_is_sent_again_is_counted():
    """A listener whose queue is full drops SYNs, until it accepts."""
    ticket = Ticket("tcp_crr")
    full = threading.Event()

    def serve(peer) -> bytes:
        peer._listener.listen(0)
        filler = connect(peer.port)
        before = dropped_syns()
        full.set()
        until(lambda: dropped_syns() > before, "a SYN is dropped")
        peer._listener.accept()[0].close()
        filler.close()
        return serve_each([0])(peer)

    with slow_responder(ticket, serve) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=1500)
        engine.arm()
        assert full.wait(30)
        engine.start()
        total = engine.snapshot(engine.started_ns + 30_000_000_000)
        engine.close()
    assert total.counters["syn_retransmits"] >= 1
    assert total.counters["timeouts"] == 1
    assert total.histograms["connect_ns"].maximum >= 1e9


def test_a_peer_that_goes_away_is_an_error(responder):
    ticket = admit(responder, Ticket("tcp_crr"))
    engine = engine_to(responder.port, ticket, duration_ms=None)
    engine.arm()
    engine.start()
    engine.snapshot(engine.started_ns + 20_000_000)
    responder.revoke(ticket.session_id)
    assert engine.snapshot(engine.started_ns + 30_000_000_000).finished
    assert engine.error is not None
    engine.close()


def test_other_sessions_are_let_in_meanwhile(responder):
    engine = admitted(responder, "tcp_crr", duration_ms=None)
    engine.arm()
    engine.start()
    other = admitted(responder, "tcp_crr")
    *_, total = watch(other)
    assert total.counters["transactions"] == other.results["operations"] > 0
    other.close()
    engine.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"request_bytes": 15}, "request of 15"),
        ({"request_bytes": 16_385}, "request of 16385"),
        ({"response_bytes": 0}, "response of 0"),
        ({"rate_per_s": -1}, "-1"),
        ({"rate_per_s": 1e5 + 1}, "100001"),
    ],
)
def test_what_no_responder_keeps_is_refused_at_once(change, named):
    with pytest.raises(UsageError, match=named):
        engine_to(1, Ticket("tcp_crr"), **change)


def test_nothing_of_connections_stays(responder):
    def live():
        engine = admitted(responder, "tcp_crr", duration_ms=5, raw_samples=True, rate_per_s=1000, poisson=True)
        watch(engine)
        engine.drain_samples()
        engine.close()
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(live)


def test_random_bytes_after_the_tokens_magic_are_refused(responder):
    for size in (0, 1, 11, 12, 80, 4000):
        with connect(responder.port) as sock:
            sock.sendall(b"CVMC" + os.urandom(size))
            with contextlib.suppress(OSError):  # it may be closed already
                sock.shutdown(socket.SHUT_WR)
            assert read_exactly(sock, 1) == b""
    until(lambda: responder.counters()["unknown"] + responder.counters()["malformed"] == 6, "all six are refused")
