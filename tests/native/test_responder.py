"""The responder against a slow initiator: every byte counted once, and every session ended."""

import socket
import time

import pytest
from tests.native.admitting import admit, counted, hello_of
from tests.native.slow_session import (
    UNKNOWN,
    SlowInitiator,
    Terms,
    Ticket,
    closed_without_a_word,
    connect,
    read_exactly,
    until,
)

SOON_S = 10  # far less than what would happen without what is tested, on a loaded machine too


@pytest.mark.parametrize("sockets", [1, 2, 7, 64])
@pytest.mark.parametrize("mode", [0, 1], ids=["copy", "discard"])
def test_every_byte_of_every_stream_is_counted(responder, sockets, mode):
    sizes = [1 + 4099 * index for index in range(sockets)]
    with SlowInitiator(responder.port, admit(responder, Ticket()), Terms(sockets=sockets, receive=mode)) as initiator:
        for sock, size in zip(initiator.data, sizes, strict=True):
            sock.sendall(bytes(size))
        (total, operations, first_ns, last_ns, cpu_ns, *_), bins = initiator.drain()
    assert total == sum(bins) == sum(sizes)
    assert operations >= sockets
    assert 0 < first_ns <= last_ns
    assert cpu_ns > 0
    assert len(bins) == 11
    counted(responder, "completed", 1)


def test_nothing_sent_is_nothing_counted(responder):
    with SlowInitiator(responder.port, admit(responder, Ticket()), Terms(sockets=2)) as initiator:
        (total, operations, first_ns, last_ns, *_), bins = initiator.drain()
    assert (total, operations, first_ns, last_ns, bins) == (0, 0, UNKNOWN, UNKNOWN, [0] * 11)


def test_bins_begin_with_the_first_payload_byte(responder):
    """Each byte is sent a known time after the first; no bin may hold one that was sent after the bin's end."""
    terms = Terms(interval_ms=50, duration_ms=200)
    with SlowInitiator(responder.port, admit(responder, Ticket()), terms) as initiator:
        time.sleep(0.12)  # silence before the first byte is nobody's interval
        sent_ns = []
        for _ in range(12):
            sent_ns.append(time.monotonic_ns())
            initiator.data[0].sendall(b"x")
            time.sleep(0.025)
        (total, _, first_ns, last_ns, *_), bins = initiator.drain()
    assert total == sum(bins) == 12
    assert len(bins) == 5
    assert bins[0] >= 1
    assert first_ns >= sent_ns[0]
    assert last_ns >= sent_ns[-1]
    for index in range(4):  # what was sent after the end of a bin is not in it
        end_ns = first_ns + (index + 1) * 50_000_000
        assert sum(bins[: index + 1]) <= sum(at < end_ns for at in sent_ns)


def test_the_last_bin_before_the_deadline_may_be_short(responder):
    terms = Terms(interval_ms=40, duration_ms=100)
    with SlowInitiator(responder.port, admit(responder, Ticket()), terms) as initiator:
        initiator.data[0].sendall(b"x")
        time.sleep(0.11)
        initiator.data[0].sendall(b"yz")
        _, bins = initiator.drain()
    assert bins == [1, 0, 0, 2]


@pytest.mark.parametrize(("request_bytes", "response_bytes"), [(1, 1), (1, 5000), (5000, 1), (70_000, 300_000)])
@pytest.mark.parametrize("mode", [0, 1], ids=["block", "spin"])
def test_every_request_is_answered_once(responder, mode, request_bytes, response_bytes):
    terms = Terms(wait=mode, duration_ms=0, request_bytes=request_bytes, response_bytes=response_bytes)
    with SlowInitiator(responder.port, admit(responder, Ticket("tcp_rr")), terms) as initiator:
        for _ in range(20):
            initiator.data[0].sendall(bytes(request_bytes))
            assert len(read_exactly(initiator.data[0], response_bytes)) == response_bytes
        initiator.data[0].settimeout(0.02)
        with pytest.raises(TimeoutError):
            initiator.data[0].recv(1)
        (total, operations, *_), bins = initiator.drain()
    assert total == 20 * (request_bytes + response_bytes)
    assert operations == 20
    assert bins == []


def test_an_idle_spinner_sleeps_and_wakes(responder):
    with SlowInitiator(
        responder.port, admit(responder, Ticket("tcp_rr")), Terms(wait=1, duration_ms=0, response_bytes=1)
    ) as initiator:
        time.sleep(0.3)
        initiator.data[0].sendall(b"?")
        assert len(read_exactly(initiator.data[0], 1)) == 1
        assert initiator.drain()[0][1] == 1


def test_half_a_request_is_no_clean_end(responder):
    terms = Terms(duration_ms=0, request_bytes=2, response_bytes=1)
    with SlowInitiator(responder.port, admit(responder, Ticket("tcp_rr")), terms) as initiator:
        initiator.data[0].sendall(b"x")
        assert initiator.drain() is None
    counted(responder, "cut", 1)


def test_a_hello_may_come_byte_by_byte(responder):
    ticket = admit(responder, Ticket())
    hello = hello_of(ticket)
    with connect(responder.port) as sock:
        for at in range(len(hello)):
            sock.sendall(hello[at : at + 1])
        assert read_exactly(sock, 64) == ticket.reply(hello)


def test_the_session_ends_with_its_control_socket(responder):
    with SlowInitiator(responder.port, admit(responder, Ticket()), Terms(sockets=2)) as initiator:
        initiator.control.close()
        for sock in initiator.data:
            assert closed_without_a_word(sock)
        counted(responder, "active", 0)
    assert responder.counters()["cut"] == 1


def test_a_word_on_the_control_socket_ends_the_session(responder):
    with SlowInitiator(responder.port, admit(responder, Ticket()), Terms()) as initiator:
        initiator.control.sendall(b"x")
        assert closed_without_a_word(initiator.data[0])
    counted(responder, "cut", 1)


def test_a_reset_data_socket_ends_the_session(responder):
    with SlowInitiator(responder.port, admit(responder, Ticket()), Terms(sockets=2)) as initiator:
        initiator.data[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        initiator.data[0].close()
        assert closed_without_a_word(initiator.data[1])
        assert initiator.read_results() is None
    counted(responder, "cut", 1)


@pytest.mark.parametrize("how", ["revoke", "deadline", "close"])
def test_a_running_session_is_ended(responder, how):
    ticket = admit(responder, Ticket())
    with SlowInitiator(responder.port, ticket, Terms(sockets=3)) as initiator:
        if how == "revoke":
            responder.revoke(ticket.session_id)
        elif how == "deadline":
            admit(responder, ticket, valid_for_ms=1)
        else:
            responder.close()
        begin = time.monotonic()
        for sock in initiator.sockets:
            assert closed_without_a_word(sock)
        assert time.monotonic() - begin < SOON_S


def test_a_revoked_ticket_gets_nothing(responder):
    ticket = admit(responder, Ticket())
    responder.revoke(ticket.session_id)
    responder.revoke(ticket.session_id)
    with connect(responder.port) as sock:
        sock.sendall(hello_of(ticket))
        assert closed_without_a_word(sock)


def test_a_new_key_ends_the_old_session(responder):
    ticket = admit(responder, Ticket())
    with SlowInitiator(responder.port, ticket, Terms()) as initiator:
        renewed = admit(responder, Ticket(session_id=ticket.session_id))
        assert closed_without_a_word(initiator.data[0])
        with SlowInitiator(responder.port, renewed, Terms()) as again:
            assert again.drain() is not None


def test_a_renewed_ticket_keeps_its_session(responder):
    ticket = admit(responder, Ticket())
    with SlowInitiator(responder.port, ticket, Terms()) as initiator:
        admit(responder, ticket)
        initiator.data[0].sendall(bytes(1000))
        assert initiator.drain()[0][0] == 1000


def test_an_initiator_that_begins_anew_replaces_what_was_left_of_it(responder):
    ticket = admit(responder, Ticket("tcp_rr"))
    terms = Terms(duration_ms=0, response_bytes=1)
    with SlowInitiator(responder.port, ticket, terms) as stale, SlowInitiator(responder.port, ticket, terms) as fresh:
        assert closed_without_a_word(stale.data[0])
        assert fresh.drain() is not None
    counted(responder, "active", 0)


def test_the_byte_cap_binds(responder):
    with SlowInitiator(responder.port, admit(responder, Ticket(), max_bytes=100_000), Terms(sockets=2)) as initiator:
        initiator.data[0].sendall(bytes(99_999))
        initiator.data[1].sendall(b"x")
        until(lambda: responder.counters()["active"] == 1, "still within the cap")
        initiator.data[1].sendall(b"y")
        assert closed_without_a_word(initiator.control)
    counted(responder, "cut", 1)


def test_the_byte_cap_holds_over_all_sessions_of_a_ticket(responder):
    ticket = admit(responder, Ticket(), max_bytes=100_000)
    with SlowInitiator(responder.port, ticket, Terms()) as initiator:
        initiator.data[0].sendall(bytes(60_000))
        assert initiator.drain()[0][0] == 60_000
    counted(responder, "active", 0)
    with SlowInitiator(responder.port, ticket, Terms()) as initiator:
        initiator.data[0].sendall(bytes(40_001))
        assert closed_without_a_word(initiator.control)
    counted(responder, "active", 0)
    with connect(responder.port) as sock:
        sock.sendall(hello_of(ticket))
        assert closed_without_a_word(sock)
    admit(responder, ticket, max_bytes=100_000)  # a new allowance
    with SlowInitiator(responder.port, ticket, Terms()) as initiator:
        initiator.data[0].sendall(bytes(100_000))
        assert initiator.drain()[0][0] == 100_000
