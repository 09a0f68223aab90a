"""The open admission of a stand-alone responder: one key, any session id, any probe; and what a session has moved."""

import os

import pytest
from tests.native.admitting import PLENTY, admit, counted, hello_of
from tests.native.leaks import assert_no_leak
from tests.native.slow_session import (
    SlowInitiator,
    Terms,
    Ticket,
    closed_without_a_word,
    connect,
    read_exactly,
    until,
)

from cvmprobe.errors import UsageError
from cvmprobe.native.responder import Responder

KEY = bytes(range(32))
TERMS = {
    "tcp_stream": Terms(),
    "tcp_rr": Terms(duration_ms=0, response_bytes=1),
    "udp_rr": Terms(duration_ms=0, request_bytes=16, response_bytes=16),
}


@pytest.fixture
def door(responder):
    responder.admit_any(KEY, valid_for_ms=60_000, max_bytes=PLENTY)
    return responder


@pytest.mark.parametrize("probe", TERMS)
def test_any_session_id_gets_in_under_the_key(door, probe):
    sessions = [SlowInitiator(door.port, Ticket(probe, key=KEY), TERMS[probe]) for _ in range(3)]
    for session in sessions:
        assert session.drain() is not None
        session.close()
    counted(door, "completed", 3)


def test_another_key_gets_nothing(door):
    with connect(door.port) as sock:
        sock.sendall(hello_of(Ticket()))
        assert closed_without_a_word(sock)
    assert door.counters()["unknown"] == 1


def test_a_named_admission_keeps_its_own_key(door):
    ticket = admit(door, Ticket())
    with connect(door.port) as sock:
        sock.sendall(hello_of(Ticket(session_id=ticket.session_id, key=KEY)))
        assert closed_without_a_word(sock)
    assert door.counters()["forged"] == 1


@pytest.mark.parametrize("when", ["running", "over"])
def test_a_replayed_control_hello_gets_nothing(door, when):
    ticket, nonce = Ticket(key=KEY), os.urandom(16)
    hello = ticket.hello(0, nonce, nonce, Terms())
    with connect(door.port) as first, connect(door.port) as thief:
        first.sendall(hello)
        assert len(read_exactly(first, 64)) == 64
        if when == "over":
            first.close()
            counted(door, "active", 0)
        door.admit_any(KEY, valid_for_ms=60_000, max_bytes=PLENTY)  # renewed, and what was used stays used
        thief.sendall(hello)
        assert closed_without_a_word(thief)
    assert door.counters()["replayed"] == 1


def test_the_byte_cap_binds_each_session(door):
    door.admit_any(KEY, valid_for_ms=60_000, max_bytes=1000)
    for _ in range(2):
        with SlowInitiator(door.port, Ticket(key=KEY), Terms()) as initiator:
            initiator.data[0].sendall(bytes(1000))
            assert initiator.drain()[0][0] == 1000
    with SlowInitiator(door.port, Ticket(key=KEY), Terms()) as initiator:
        initiator.data[0].sendall(bytes(1001))
        assert closed_without_a_word(initiator.control)


@pytest.mark.parametrize("how", ["another key", "its end"])
def test_the_end_of_the_admission_ends_its_sessions(door, how):
    with SlowInitiator(door.port, Ticket("tcp_rr", key=KEY), TERMS["tcp_rr"]) as initiator:
        if how == "another key":
            door.admit_any(os.urandom(32), valid_for_ms=60_000, max_bytes=PLENTY)
        else:
            door.admit_any(KEY, valid_for_ms=0, max_bytes=PLENTY)
        assert closed_without_a_word(initiator.control)
    with connect(door.port) as sock:
        sock.sendall(hello_of(Ticket(key=KEY)))
        assert closed_without_a_word(sock)


def test_a_renewal_keeps_the_sessions(door):
    with SlowInitiator(door.port, Ticket(key=KEY), Terms()) as initiator:
        door.admit_any(KEY, valid_for_ms=60_000, max_bytes=PLENTY)
        initiator.data[0].sendall(bytes(7))
        assert initiator.drain()[0][0] == 7


def test_many_sessions_leave_no_admission(door):
    """More of them, one after the other, than there are places for admissions."""
    for _ in range(5000):
        with connect(door.port) as sock:
            sock.sendall(hello_of(Ticket(key=KEY)))
            assert len(read_exactly(sock, 64)) == 64
    counted(door, "active", 0)
    assert door.counters()["cut"] == 5000


def test_a_bad_open_admission_is_named(responder):
    with pytest.raises(UsageError, match="key"):
        responder.admit_any(b"short", valid_for_ms=1, max_bytes=1)
    with pytest.raises(UsageError, match="valid"):
        responder.admit_any(KEY, valid_for_ms=1 << 40, max_bytes=1)


def test_nothing_of_an_open_admission_stays():
    def live():
        found = Responder("127.0.0.1")
        found.admit_any(KEY, valid_for_ms=60_000, max_bytes=PLENTY)
        with SlowInitiator(found.port, Ticket(key=KEY), Terms()) as initiator:
            assert initiator.drain() is not None
        found.close()

    assert_no_leak(live)


def test_what_was_moved_can_be_asked_for(responder):
    ticket = admit(responder, Ticket())
    assert responder.spent(ticket.session_id) == 0
    with SlowInitiator(responder.port, ticket, Terms(sockets=2)) as initiator:
        initiator.data[0].sendall(bytes(1000))
        until(lambda: responder.spent(ticket.session_id) == 1000, "1000 bytes of a running session")
        admit(responder, ticket)  # a new allowance takes nothing back
        initiator.data[1].sendall(bytes(500))
        assert initiator.drain()[0][0] == 1500
    counted(responder, "active", 0)
    assert responder.spent(ticket.session_id) == 1500
    responder.revoke(ticket.session_id)
    assert responder.spent(ticket.session_id) is None
