"""What a responder does beside an initiator that means it no good, or is carried over what it may: its caps bind."""

import contextlib
import socket
import time
from pathlib import Path

import pytest
from tests.native.admitting import admit, counted
from tests.native.slow_session import SlowInitiator, Terms, Ticket, read_exactly

MOST = 2**64 - 1
CPU_NS = 4  # of the results


def test_an_allowance_without_end_may_be_renewed(responder):
    ticket = admit(responder, Ticket("tcp_rr"), max_bytes=MOST)
    with SlowInitiator(responder.port, ticket, Terms(duration_ms=0, response_bytes=1)) as initiator:
        for _ in range(2):
            initiator.data[0].sendall(b"?")
            assert len(read_exactly(initiator.data[0], 1)) == 1
            admit(responder, ticket, max_bytes=MOST)
        assert initiator.drain()[0][1] == 2


@pytest.mark.parametrize("sockets", [1, 3])
def test_transactions_without_an_end_are_charged(responder, sockets):
    """Else an initiator that never takes its responses whole could have as many sessions as it likes."""
    terms = Terms(sockets=sockets, duration_ms=0, response_bytes=1 << 20, sndbuf_bytes=8192)
    ticket = admit(responder, Ticket("tcp_rr"))
    with SlowInitiator(responder.port, ticket, terms) as initiator:
        for sock in initiator.data:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            sock.sendall(b"?")
            assert len(read_exactly(sock, 5000)) == 5000
    counted(responder, "cut", 1)
    assert sockets * 5001 <= responder.spent(ticket.session_id) < sockets * (1 << 20)


@pytest.mark.parametrize("sockets", [1, 2])
def test_a_spinning_session_sleeps_while_nobody_asks(responder, sockets):
    """An initiator that is suspended must not cost this node a CPU for as long as its admission lasts."""
    terms = Terms(sockets=sockets, wait=1, duration_ms=0, request_bytes=16, response_bytes=16)
    with SlowInitiator(responder.port, admit(responder, Ticket("udp_rr")), terms) as initiator:
        began = time.monotonic()
        for index, sock in enumerate(initiator.data, 1):
            sock.send(initiator.datagram(index, 0))
            assert len(sock.recv(100)) == 16
        time.sleep(1)
        initiator.data[0].send(initiator.datagram(1, 1))
        assert len(initiator.data[0].recv(100)) == 16
        counts, _ = initiator.drain()
        assert counts[CPU_NS] < (time.monotonic() - began) * 1e9 / 3


def copy_of(sock: socket.socket) -> socket.socket:
    """What a child of a fork would hold of the responder's end of a connection, which lives in this process."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.fromfd(int(entry.name), socket.AF_INET, socket.SOCK_STREAM) as end:
            if end.getpeername() == sock.getsockname():
                return end.dup()
    raise AssertionError("the responder has no such connection")


def test_a_freed_session_is_not_told_of_what_a_child_of_a_fork_still_holds(responder):
    """Its control socket stays open there until the child runs its program, and events of it go on coming."""
    with SlowInitiator(
        responder.port, admit(responder, Ticket("tcp_rr")), Terms(duration_ms=0, response_bytes=1)
    ) as ends:
        with copy_of(ends.control):
            assert ends.drain() is not None
            counted(responder, "active", 0)
            ends.control.close()
            began = time.process_time()
            time.sleep(0.5)
            spent = time.process_time() - began
            assert spent < 0.1, "its thread must sleep"
            assert responder.counters()["cut"] == 0
