"""Whatever arrives on a responder's port, nobody but the holder of a key is answered, and its session goes on.

CVMPROBE_FUZZ=100 python -m pytest tests/fuzz/test_hello.py     100 times as many examples
"""

import contextlib
import os
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.native.slow_session import SlowInitiator, Terms, Ticket, connect, read_exactly

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


@fuzz
@given(data=st.binary(max_size=600), changes=mutations)
def test_the_parser_stays_within_bounds(data, changes):
    for candidate in (data, b"CVMP\x02" + data, mutated(changes), mutated(changes) + data):
        size = session.measure_hello(candidate)
        assert size <= 0 or 96 <= size <= 96 + 256
        assert candidate == HELLO or not session.verify_hello(candidate, TICKET.key)
