"""The responder's UDP door: a cookie for whoever asks, a session for who holds the key, silence for all else."""

import contextlib
import os
import socket
import struct

import pytest
from tests.native.admitting import admit, counted
from tests.native.slow_session import SlowInitiator, Terms, Ticket, connect_udp, cookie_datagram, until

from cvmprobe.native.responder import Responder

TERMS = Terms(duration_ms=0, request_bytes=16, response_bytes=16)


@pytest.fixture
def initiator(responder):
    with SlowInitiator(responder.port, admit(responder, Ticket("udp_rr")), TERMS) as found:
        yield found


def cookie_of(sock) -> bytes:
    sock.send(cookie_datagram())
    return sock.recv(100)


def is_silent(responder, sock) -> bool:
    """Whether nothing came back for what was sent before: what is asked after it is answered first."""
    cookie = cookie_of(sock)
    return cookie[:4] == b"CVMC" and len(cookie) == 24


@pytest.mark.parametrize("sizes", [(16, 16), (16, 1000), (1000, 16), (65507, 65507)])
@pytest.mark.parametrize("wait", [0, 1], ids=["block", "spin"])
def test_every_request_is_answered_under_its_own_header(responder, wait, sizes):
    request, response = sizes
    terms = Terms(sockets=2, wait=wait, duration_ms=0, request_bytes=request, response_bytes=response)
    with SlowInitiator(responder.port, admit(responder, Ticket("udp_rr")), terms) as initiator:
        for sequence in range(10):
            for index, sock in enumerate(initiator.data, 1):
                sent = initiator.datagram(index, sequence, request)
                sock.send(sent)
                answer = sock.recv(1 << 16)
                assert answer[:16] == sent[:16]
                assert len(answer) == response
        (total, operations, *_), bins = initiator.drain()
    assert total == 20 * (request + response)
    assert operations == 20
    assert bins == []
    counted(responder, "completed", 1)


def test_what_is_under_way_at_the_end_is_counted(responder, initiator):
    """The half-close overtakes datagrams on another socket; they are late, not lost."""
    for sequence in range(50):
        initiator.data[0].send(initiator.datagram(1, sequence))
    initiator.control.shutdown(socket.SHUT_WR)
    for sequence in range(50, 100):
        initiator.data[0].send(initiator.datagram(1, sequence))
    assert initiator.read_results()[0][1] == 100


def test_an_idle_session_ends(initiator):
    assert initiator.drain()[0][1] == 0


@pytest.mark.parametrize("end", ["reset", "revoke", "word"])
def test_an_idle_session_is_cut(responder, initiator, end):
    if end == "reset":
        initiator.control.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        initiator.control.close()
    elif end == "revoke":
        responder.revoke(initiator.ticket.session_id)
    else:
        initiator.control.sendall(b"x")
    counted(responder, "cut", 1)


def test_a_flood_after_the_end_does_not_keep_the_session(responder, initiator):
    initiator.control.shutdown(socket.SHUT_WR)
    sequence = 0

    def over() -> bool:
        nonlocal sequence
        sequence += 1
        with contextlib.suppress(ConnectionRefusedError):  # its socket is gone
            initiator.data[0].send(initiator.datagram(1, sequence))
        return responder.counters()["completed"] == 1

    until(over, "the session is over although datagrams still come")


def test_what_is_not_of_the_session_is_not_answered(initiator):
    data = initiator.data[0]
    data.send(b"")
    data.send(initiator.datagram(1, 0)[:15])
    data.send(initiator.datagram(1, 0, 17))
    data.send(initiator.datagram(2, 0))
    data.send(b"x" * 16)
    last = initiator.datagram(1, 7)
    data.send(last)
    assert data.recv(100) == last
    assert initiator.drain()[0][1] == 1


def test_no_answer_is_longer_than_what_it_answers(responder):
    with connect_udp(responder.port) as sock:
        assert len(cookie_of(sock)) == len(cookie_datagram())


def test_whoever_asks_gets_a_cookie_and_nothing_is_kept(responder):
    with connect_udp(responder.port) as one, connect_udp(responder.port) as other:
        assert cookie_of(one) == cookie_of(one) != cookie_of(other)
    counted(responder, "cookies", 3)


@pytest.mark.parametrize("change", ["no cookie", "cookie", "other's cookie", "key", "id", "tcp kind", "control"])
def test_a_wrong_opening_gets_nothing(responder, initiator, change):
    ticket, index = initiator.ticket, 1
    if change == "key":
        ticket = Ticket("udp_rr", ticket.session_id)
    elif change == "id":
        ticket = Ticket("udp_rr", key=ticket.key)
    elif change == "tcp kind":
        ticket = Ticket("tcp_rr", ticket.session_id, ticket.key)
    elif change == "control":
        index = 0
    hello = ticket.hello(index, os.urandom(16), initiator.nonce, TERMS if index == 0 else None)
    with connect_udp(responder.port) as sock, connect_udp(responder.port) as other:
        cookie = cookie_of(other if change == "other's cookie" else sock)
        if change == "no cookie":
            cookie = cookie_datagram()
        elif change == "cookie":
            cookie = cookie[:-1] + bytes([cookie[-1] ^ 1])
        sock.send(cookie + hello)
        assert is_silent(responder, sock)
    assert responder.counters()["hellos"] == 2
    assert initiator.drain() is not None, "the session must not be disturbed"


def test_an_opening_cut_at_any_byte_gets_nothing(responder, initiator):
    with connect_udp(responder.port) as sock:
        opening = cookie_of(sock) + initiator.ticket.hello(1, os.urandom(16), initiator.nonce)
        for size in range(len(opening)):
            sock.send(opening[:size])
        sock.send(opening + b"x")
        assert is_silent(responder, sock)
    assert responder.counters()["hellos"] == 2


def test_a_replayed_opening_gets_nothing(responder, initiator):
    hello = initiator.ticket.hello(1, os.urandom(16), initiator.nonce)
    moved = initiator.dial_udp(hello)
    with moved, connect_udp(responder.port) as thief:
        thief.send(cookie_of(thief) + hello)
        assert is_silent(responder, thief)
        assert responder.counters()["replayed"] == 1
        sent = initiator.datagram(1, 0)
        moved.send(sent)
        assert moved.recv(100) == sent


def test_a_data_hello_over_the_wrong_transport_gets_nothing(responder, initiator):
    hello = initiator.ticket.hello(1, os.urandom(16), initiator.nonce)
    with socket.create_connection(("127.0.0.1", responder.port), timeout=30) as sock:
        sock.sendall(hello)
        assert sock.recv(1) == b""
    assert initiator.drain() is not None


def test_an_initiator_that_saw_no_reply_dials_again_from_another_port(initiator):
    """Its old port may be closed by then: what the network says of that must not end the session."""
    initiator.data[0].close()
    for _ in range(5):
        initiator.sockets[1].close()
        initiator.sockets[1] = initiator.dial_udp(initiator.ticket.hello(1, os.urandom(16), initiator.nonce))
    sent = initiator.datagram(1, 3)
    initiator.data[0].send(sent)
    assert initiator.data[0].recv(100) == sent
    assert initiator.drain()[0][1] == 1


def test_many_sessions_share_the_port(responder):
    sessions = [SlowInitiator(responder.port, admit(responder, Ticket("udp_rr")), TERMS) for _ in range(50)]
    for number, session in enumerate(sessions):
        session.data[0].send(session.datagram(1, number))
    for number, session in enumerate(sessions):
        assert session.data[0].recv(100) == session.datagram(1, number)
    for session in sessions:
        assert session.drain()[0][1] == 1
        session.close()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_the_answer_comes_from_the_address_that_was_asked(host):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    responder = Responder(host)
    asked = ["::1"] if host == "::1" else ["::1", "127.0.0.1", "127.0.0.2"]
    for address in asked:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(30)
            sock.connect((address, responder.port))  # takes datagrams of this address only
            assert len(cookie_of(sock)) == 24
    responder.close()
