"""Who gets into a responder and who does not; nobody is held up by anybody, and nothing stays behind."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from tests.native.admitting import PLENTY, admit, counted, hello_of
from tests.native.leaks import assert_no_leak, descriptors, threads
from tests.native.slow_session import SlowInitiator, Terms, Ticket, closed_without_a_word, connect, read_exactly, until

from cvmprobe.errors import EngineError, UsageError
from cvmprobe.native.responder import Responder
from cvmprobe.probes.responder import Responder as Face

SOON_S = 10  # far less than what would happen without what is tested, on a loaded machine too
SILENT = 600  # more than there are places for those who have said no hello yet


# -- wrong hellos --


@pytest.mark.parametrize("change", ["key", "mac", "terms", "id", "version", "http"])
def test_a_wrong_hello_gets_nothing(responder, change):
    ticket = admit(responder, Ticket())
    hello = bytearray(hello_of(ticket))
    if change == "key":
        hello = hello_of(Ticket(session_id=ticket.session_id))
    elif change == "id":
        hello = hello_of(Ticket(key=ticket.key))
    elif change == "http":
        hello = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10
    else:
        hello[{"mac": 95, "terms": 96, "version": 4}[change]] ^= 1
    with connect(responder.port) as sock:
        sock.sendall(hello)
        assert closed_without_a_word(sock)
    counters = responder.counters()
    assert counters["hellos"] == counters["sessions"] == 0
    assert counters["malformed"] + counters["unknown"] + counters["forged"] == 1


def test_a_hello_cut_at_any_byte_gets_nothing(responder):
    hello = hello_of(admit(responder, Ticket()))
    for size in range(len(hello)):
        with connect(responder.port) as sock:
            sock.sendall(hello[:size])
            sock.shutdown(socket.SHUT_WR)
            assert closed_without_a_word(sock), f"{size} bytes were answered"
    assert responder.counters()["malformed"] == len(hello)
    assert responder.counters()["sessions"] == 0


def test_a_replayed_control_hello_gets_nothing(responder):
    ticket = admit(responder, Ticket())
    hello = hello_of(ticket)
    with connect(responder.port) as first, connect(responder.port) as second:
        first.sendall(hello)
        assert len(read_exactly(first, 64)) == 64
        second.sendall(hello)
        assert closed_without_a_word(second)
        assert responder.counters()["replayed"] == 1
        assert responder.counters()["active"] == 1, "a replay must not disturb the session"


def test_a_replayed_data_hello_gets_nothing(responder):
    ticket = admit(responder, Ticket())
    with SlowInitiator(responder.port, ticket, Terms(sockets=2)) as initiator, connect(responder.port) as sock:
        nonce = os.urandom(16)
        hello = ticket.hello(1, nonce, initiator.nonce)
        sock.sendall(hello)
        assert closed_without_a_word(sock), "socket 1 is there already"
        with connect(responder.port) as again:
            again.sendall(hello)
            assert closed_without_a_word(again)
        assert responder.counters()["replayed"] == 1
        assert initiator.drain() is not None, "the session must not be disturbed"


@pytest.mark.parametrize("index", [0, 1])
def test_replays_stay_refused_after_the_session_and_its_renewal(responder, index):
    ticket = admit(responder, Ticket())
    nonce, data_nonce = os.urandom(16), os.urandom(16)
    hellos = [ticket.hello(0, nonce, nonce, Terms()), ticket.hello(1, data_nonce, nonce)]
    socks = [connect(responder.port) for _ in hellos]
    for sock, hello in zip(socks, hellos, strict=True):
        sock.sendall(hello)
        assert len(read_exactly(sock, 64)) == 64
    for sock in socks:
        sock.close()
    counted(responder, "active", 0)
    admit(responder, ticket)
    with connect(responder.port) as sock:
        sock.sendall(hellos[index])
        assert closed_without_a_word(sock)
    assert responder.counters()["replayed"] == 1


def test_a_data_hello_of_another_session_of_the_same_ticket_gets_nothing(responder):
    ticket = admit(responder, Ticket())
    with SlowInitiator(responder.port, ticket, Terms()), connect(responder.port) as sock:
        sock.sendall(ticket.hello(1, os.urandom(16), os.urandom(16)))
        assert closed_without_a_word(sock)


def test_a_ticket_for_one_probe_opens_no_other(responder):
    ticket = admit(responder, Ticket("tcp_rr"))
    other = Ticket("tcp_stream", ticket.session_id, ticket.key)
    with connect(responder.port) as sock:
        sock.sendall(hello_of(other))
        assert closed_without_a_word(sock)


def test_an_expired_ticket_gets_nothing(responder):
    ticket = admit(responder, Ticket(), valid_for_ms=0)
    with connect(responder.port) as sock:
        sock.sendall(hello_of(ticket))
        assert closed_without_a_word(sock)
    assert responder.counters()["unknown"] == 1


def test_no_allowance_is_no_session(responder):
    ticket = admit(responder, Ticket(), max_bytes=0)
    with connect(responder.port) as sock:
        sock.sendall(hello_of(ticket))
        assert closed_without_a_word(sock)


# -- nobody is held up --


def test_silent_peers_hold_up_nobody(responder):
    """More of them than there are places: the oldest gives way."""
    silent = [connect(responder.port) for _ in range(SILENT)]
    try:
        for _ in range(3):
            with SlowInitiator(responder.port, admit(responder, Ticket()), Terms()) as initiator:
                initiator.data[0].sendall(b"x")
                assert initiator.drain()[0][0] == 1
        for sock in silent:
            assert closed_without_a_word(sock), "after 2 s at the latest"
    finally:
        for sock in silent:
            sock.close()
    assert responder.counters()["timed_out"] == SILENT


def test_a_peer_that_reads_nothing_holds_up_nobody(responder):
    terms = Terms(duration_ms=0, response_bytes=1 << 20)
    with SlowInitiator(responder.port, admit(responder, Ticket("tcp_rr")), terms) as deaf:
        deaf.data[0].sendall(bytes(100))  # 100 MiB of responses that nobody takes
        with SlowInitiator(responder.port, admit(responder, Ticket()), Terms()) as initiator:
            initiator.data[0].sendall(b"x")
            assert initiator.drain()[0][0] == 1
        begin = time.monotonic()
        responder.close()
        assert time.monotonic() - begin < SOON_S


def test_many_sessions_at_once_leave_nothing(responder):
    """200 of them, in both directions of life: opened by many threads, drained or dropped."""
    tickets = [admit(responder, Ticket("tcp_rr")) for _ in range(200)]
    connect(responder.port).close()
    counted(responder, "malformed", 1)  # its thread is there, with all that it opens for itself
    before = descriptors(), threads()
    terms = Terms(duration_ms=0, response_bytes=1)
    initiators: list[SlowInitiator] = []

    def open_some(mine: list[Ticket]) -> None:
        initiators.extend(SlowInitiator(responder.port, ticket, terms) for ticket in mine)

    workers = [threading.Thread(target=open_some, args=(tickets[index::8],)) for index in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert responder.counters()["active"] == len(initiators) == 200
    for initiator in initiators:
        initiator.data[0].sendall(b"?")
    for initiator in initiators:
        assert len(read_exactly(initiator.data[0], 1)) == 1
    for initiator in initiators[:100]:
        assert initiator.drain()[0][1] == 1
    for initiator in initiators:
        initiator.close()
    counted(responder, "active", 0)
    counters = responder.counters()
    assert counters["sessions"] == counters["completed"] + counters["cut"] == 200
    assert counters["completed"] >= 100
    until(lambda: (descriptors(), threads()) == before, "all descriptors and threads are back")


def test_more_threads_than_there_is_room_for_are_refused(responder):
    """Room for them is taken by the control hello: 64 sessions of 64 streams are all there may be."""
    answered, socks = [], []
    for _ in range(65):
        ticket = admit(responder, Ticket())
        socks.append(connect(responder.port))
        socks[-1].sendall(hello_of(ticket, Terms(sockets=64)))
        answered.append(len(read_exactly(socks[-1], 64)))
    assert answered == [64] * 64 + [0]
    assert responder.counters()["short"] == 1
    assert "4096 threads" in responder.shortage
    for sock in socks:
        sock.close()


def test_a_session_whose_data_sockets_never_come_is_cut(responder):
    ticket = admit(responder, Ticket())
    with connect(responder.port) as sock:
        sock.sendall(hello_of(ticket))
        assert len(read_exactly(sock, 64)) == 64
        assert closed_without_a_word(sock)
    counted(responder, "active", 0)


# -- its own life --


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "0.0.0.0"])
def test_it_listens_where_it_is_told(host):
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    found = Responder(host)
    assert found.port > 0
    found.close()


@pytest.mark.parametrize("host", ["localhost", "", "not an address"])
def test_an_address_that_is_none_is_named(host):
    with pytest.raises(EngineError, match="listen on"):
        Responder(host)


def test_a_port_that_is_taken_is_named(responder):
    with pytest.raises(EngineError, match=f"port {responder.port}: bind"):
        Responder("127.0.0.1", responder.port)


def test_it_stops_listening_when_closed(responder):
    responder.close()
    responder.close()
    with pytest.raises(ConnectionRefusedError):
        connect(responder.port)
    with pytest.raises(RuntimeError, match="closed"):
        responder.counters()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"session_id": b"x"}, "session id"),
        ({"key": b"short"}, "key"),
        ({"probe": "disk"}, "disk"),
        ({"valid_for_ms": 1 << 40}, "valid"),
    ],
)
def test_a_bad_admission_is_named(responder, change, named):
    admission = {"session_id": bytes(16), "key": bytes(32), "probe": "tcp_rr", "valid_for_ms": 1, "max_bytes": 1}
    admission |= change
    limits = {name: admission.pop(name) for name in ("valid_for_ms", "max_bytes")}
    with pytest.raises(UsageError, match=named):
        responder.admit(*admission.values(), **limits)


def test_admissions_are_bounded_and_expired_ones_give_way(responder):
    for _ in range(4095):
        admit(responder, Ticket())
    admit(responder, Ticket(), valid_for_ms=0)
    admit(responder, Ticket())
    with pytest.raises(UsageError, match="4096"):
        admit(responder, Ticket())


def test_nothing_of_a_responder_stays():
    def live():
        found = Face("127.0.0.1", 0)
        ticket = Ticket()
        found._native.admit(ticket.session_id, ticket.key, ticket.probe, valid_for_ms=1000, max_bytes=PLENTY)
        with SlowInitiator(found.port, ticket, Terms(sockets=2)) as initiator:
            initiator.data[0].sendall(bytes(100_000))
            initiator.drain()
        found.revoke(ticket.session_id)
        found.counters()
        found.close()

    assert_no_leak(live)


def test_nothing_of_a_dropped_responder_stays():
    def drop():
        found = Responder("127.0.0.1")
        initiator = SlowInitiator(found.port, admit(found, Ticket()), Terms())
        del found
        assert closed_without_a_word(initiator.data[0])
        initiator.close()

    assert_no_leak(drop)
