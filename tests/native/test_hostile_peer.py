"""What an initiator does beside a responder that means it no good: deadline, stop and budget bind all the same.

Some of these do not even hold the key: a connection of tcp_crr is answered by whoever is at that address.
"""

import contextlib
import socket
import struct
import threading
import time

import pytest
from tests.native.sessions import STOP_BOUND_S, admitted, engine_to
from tests.native.slow_session import SlowResponder, Ticket, read_exactly, slow_responder, until
from tests.native.slow_udp import SlowUdpResponder

from cvmprobe.errors import RefusedError

CHUNK = bytes(1 << 16)


def flood(peer: SlowResponder, sock: socket.socket, piece: bytes = CHUNK, pause_s: float = 0) -> None:
    """Send, whatever was asked, until the test is done with us."""
    with contextlib.suppress(OSError):  # the initiator has had enough
        while not peer.over.wait(pause_s):
            sock.sendall(piece)


def floods_a_connection(piece: bytes, pause_s: float):
    def serve(peer: SlowResponder) -> None:
        sock, _ = peer._listener.accept()
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            read_exactly(sock, 16)
            flood(peer, sock, piece, pause_s)

    return serve


def floods_the_first(peer: SlowResponder) -> None:
    flood(peer, peer.data[0])


def stops(engine) -> bool:
    """Whether stop() comes back; where it does not, its thread ends with the peer."""
    stopper = threading.Thread(target=engine.stop, daemon=True)
    stopper.start()
    stopper.join(STOP_BOUND_S)
    return not stopper.is_alive()


@pytest.mark.parametrize("size", [16, 16_384])
def test_a_response_without_an_end_is_an_error(size):
    ticket = Ticket("tcp_crr")
    with slow_responder(ticket, floods_a_connection(CHUNK, 0)) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=None, response_bytes=size)
        engine.arm()
        engine.start()
        until(lambda: engine.error is not None, "the engine has failed")
        assert engine.error[0] == "recv the whole response"
        assert stops(engine)
    engine.close()


@pytest.mark.parametrize("duration_ms", [None, 50])
def test_a_response_that_trickles_holds_up_neither_stop_nor_deadline(duration_ms):
    """A byte comes before any call has slept for as long as it may."""
    ticket = Ticket("tcp_crr")
    with slow_responder(ticket, floods_a_connection(b"x", 0.005)) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=duration_ms, response_bytes=16_384)
        engine.arm()
        engine.start()
        if duration_ms is None:
            engine.snapshot(engine.started_ns + 50_000_000)
        else:
            until(lambda: engine.snapshot(engine.started_ns + 50_000_000).finished, "it has ended by itself")
        assert stops(engine)
        assert engine.snapshot().counters["transactions"] == 0
    engine.close()


@pytest.mark.parametrize("wait", ["block", "spin", "epoll"])
def test_responses_that_nobody_asked_for_are_an_error(wait):
    """They come faster than the requests can be sent that make room for them."""
    ticket = Ticket("tcp_rr")
    with slow_responder(ticket, floods_the_first) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=None, wait=wait, depth=256)
        engine.arm()
        engine.start()
        until(lambda: engine.error is not None, "the engine has failed")
        assert engine.error[0] == "recv more than was asked for"
        assert stops(engine)
    engine.close()


def test_an_option_that_nobody_knows_is_refused_in_words(monkeypatch):
    ticket = Ticket("tcp_rr")
    told = ticket.reply
    monkeypatch.setattr(
        ticket, "reply", lambda hello: told(hello, (77, 2**32 - 1) if struct.unpack_from("<H", hello, 6)[0] else (0, 0))
    )
    with slow_responder(ticket, lambda peer: peer.over.wait() and None) as peer:
        engine = engine_to(peer.port, ticket)
        with pytest.raises(RefusedError, match="option 77"):
            engine.arm()


def test_a_rate_that_is_too_high_holds_up_neither_responses_nor_stop(responder):
    """There is always a request due; the responses to those before must not wait for that to end."""
    engine = admitted(responder, "udp_rr", rate_per_s=1_000_000, duration_ms=None, wait="epoll", timeout_ms=1000)
    engine.arm()
    engine.start()
    middle = engine.snapshot(engine.started_ns + 300_000_000)
    assert middle.counters["transactions"] > 0
    begin = time.monotonic()
    assert stops(engine)
    assert time.monotonic() - begin < STOP_BOUND_S
    engine.close()


def test_a_rate_that_is_too_high_ends_with_its_time(responder):
    """More requests may be under way than are remembered: none of them may be waited for forever."""
    engine = admitted(responder, "udp_rr", rate_per_s=1_000_000, duration_ms=300, wait="spin", timeout_ms=1000)
    engine.arm()
    engine.start()
    until(lambda: engine.snapshot(engine.started_ns + 20_000_000).finished, "the engine has ended")
    counts = engine.snapshot().counters
    assert counts["requests"] == counts["transactions"] + counts["timeouts"]
    engine.close()


def test_a_stream_that_sends_more_than_it_may_is_an_error():
    ticket = Ticket("tcp_stream")
    with slow_responder(ticket, floods_the_first) as peer:
        engine = engine_to(peer.port, ticket, direction="reverse", duration_ms=20_000, max_bytes=1 << 20)
        engine.arm()
        engine.start()
        until(lambda: engine.error is not None, "the engine has failed")
        assert engine.error[0] == "recv no more than was allowed"
        assert stops(engine)
    engine.close()


class Generous(SlowUdpResponder):
    """Sends what it has at once, more than it may."""

    def _take(self, data, peer, nonce):
        if data[:4] == b"CVMC":
            super()._take(data, peer, nonce)
            return
        for number in range(60):
            self._datagrams.sendto(data[:8] + struct.pack("<Q", number) + bytes(1356), peer)


def test_datagrams_beyond_what_may_be_sent_are_an_error():
    peer = Generous(Ticket("udp_stream"), lambda _: [])
    engine = engine_to(peer.port, peer.ticket, direction="reverse", duration_ms=20_000, max_bytes=20 * 1372)
    engine.arm()
    engine.start()
    until(lambda: engine.error is not None, "the engine has failed")
    assert engine.error[0] == "recvmmsg no more than was allowed"
    assert stops(engine)
    engine.close()
    peer.close()
