"""Whatever arrives on a responder's port, nobody but the holder of a key is answered, and its session goes on.

CVMPROBE_FUZZ=100 python -m pytest tests/fuzz/test_hello.py     100 times as many examples
"""

import contextlib
import itertools
import os
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.native.slow_session import (
    SlowInitiator,
    Terms,
    Ticket,
    connect,
    connect_udp,
    cookie_datagram,
    read_exactly,
)

from cvmprobe.native import session
from cvmprobe.native.responder import Responder

EXAMPLES = int(os.environ.get("CVMPROBE_FUZZ", "1")) * 200
TICKET = Ticket("tcp_rr", bytes(16), bytes(32))
TERMS = Terms(duration_ms=0, response_bytes=1)
HELLO = TICKET.hello(0, b"n" * 16, b"n" * 16, TERMS)

fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
mutations = st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.integers(1, 255)), min_size=1, max_size=8)


def mutated(changes) -> bytes:
    hello = bytearray(HELLO)
    for at, mask in changes:
        hello[at] ^= mask
    return bytes(hello)


@pytest.fixture(scope="module")
def bystander():
    """A responder, and a session on it that must stay whole."""
    responder = Responder("127.0.0.1")
    responder.admit(TICKET.session_id, TICKET.key, "tcp_rr", valid_for_ms=3_600_000, max_bytes=1 << 40)
    other = Ticket("tcp_rr")
    responder.admit(other.session_id, other.key, "tcp_rr", valid_for_ms=3_600_000, max_bytes=1 << 40)
    with SlowInitiator(responder.port, other, TERMS) as initiator:
        yield responder.port, initiator
        assert initiator.drain() is not None
    responder.close()


def answer_to(port, pieces) -> bytes:
    with connect(port) as sock:
        with contextlib.suppress(OSError):  # it may be closed before all is sent
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        return read_exactly(sock, 1)


def still_there(initiator) -> bool:
    initiator.data[0].sendall(b"?")
    return len(read_exactly(initiator.data[0], 1)) == 1


@fuzz
@given(pieces=st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_met_with_silence(bystander, pieces):
    port, initiator = bystander
    assert answer_to(port, pieces) == b""
    assert still_there(initiator)


@fuzz
@given(changes=mutations)
def test_a_mutated_hello_is_met_with_silence(bystander, changes):
    if mutated(changes) == HELLO:
        return  # changes that undo each other
    port, initiator = bystander
    assert answer_to(port, [mutated(changes)]) == b""
    assert still_there(initiator)


# -- the same by datagram --

UDP_TICKET = Ticket("udp_rr", bytes(16), bytes(32))
UDP_TERMS = Terms(duration_ms=0, request_bytes=16, response_bytes=16)


@pytest.fixture(scope="module")
def udp_bystander():
    """A responder, a session by datagrams on it that must stay whole, and a peer that holds a cookie."""
    responder = Responder("127.0.0.1")
    responder.admit(UDP_TICKET.session_id, UDP_TICKET.key, "udp_rr", valid_for_ms=3_600_000, max_bytes=1 << 40)
    with SlowInitiator(responder.port, UDP_TICKET, UDP_TERMS) as initiator, connect_udp(responder.port) as stranger:
        yield initiator, stranger
        assert initiator.drain() is not None
    responder.close()


def cookie_of(stranger) -> bytes:
    stranger.send(cookie_datagram())
    return stranger.recv(1 << 16)


def answer_to_datagrams(stranger, datagrams) -> bytes:
    """All that comes back before the cookie that is asked for last."""
    for datagram in datagrams:
        stranger.send(datagram)
    stranger.send(cookie_datagram())
    return stranger.recv(1 << 16)


SEQUENCE = itertools.count()


def exchanged(initiator) -> bool:
    request = initiator.datagram(1, next(SEQUENCE))
    initiator.data[0].send(request)
    return initiator.data[0].recv(100) == request


@fuzz
@given(datagrams=st.lists(st.binary(max_size=200), max_size=5))
def test_any_datagrams_are_met_with_silence(udp_bystander, datagrams):
    initiator, stranger = udp_bystander
    cookie = cookie_of(stranger)
    assert answer_to_datagrams(stranger, [*datagrams, *(cookie + data for data in datagrams)]) == cookie
    assert exchanged(initiator)


@fuzz
@given(changes=st.lists(st.tuples(st.integers(0, 119), st.integers(1, 255)), min_size=1, max_size=8))
def test_a_mutated_opening_is_met_with_silence(udp_bystander, changes):
    initiator, stranger = udp_bystander
    cookie = cookie_of(stranger)
    opening = bytearray(cookie + UDP_TICKET.hello(1, os.urandom(16), initiator.nonce))
    right = bytes(opening)
    for at, mask in changes:
        opening[at] ^= mask
    if bytes(opening) == right:
        return  # changes that undo each other
    assert answer_to_datagrams(stranger, [bytes(opening)]) == cookie
    assert exchanged(initiator)


@fuzz
@given(datagrams=st.lists(st.binary(max_size=64), min_size=1, max_size=5))
def test_a_session_answers_nothing_but_its_own_datagrams(udp_bystander, datagrams):
    initiator, _ = udp_bystander
    for datagram in datagrams:
        initiator.data[0].send(datagram)
    assert exchanged(initiator)


@fuzz
@given(data=st.binary(max_size=600), changes=mutations)
def test_the_parser_stays_within_bounds(data, changes):
    for candidate in (data, b"CVMP\x02" + data, mutated(changes), mutated(changes) + data):
        size = session.measure_hello(candidate)
        assert size <= 0 or 96 <= size <= 96 + 256
        assert candidate == HELLO or not session.verify_hello(candidate, TICKET.key)
