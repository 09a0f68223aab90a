"""Options of a stream's sockets: read back at both ends, which live in this process, or refused by name."""

import contextlib
import errno
import os
import socket
from pathlib import Path

import pytest
from tests.native.admitting import admit
from tests.native.sessions import admitted, engine_to, watch
from tests.native.slow_session import Terms, Ticket, connect, read_exactly, slow_responder

from cvmprobe.errors import RefusedError, UsageError

TCP, IP, SOL = socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.SOL_SOCKET
SO_MAX_PACING_RATE = 47

# Whoever has no CAP_NET_ADMIN may set no other.
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text(encoding="ascii").split()


def is_of(sock, port) -> bool:
    with contextlib.suppress(OSError):
        return sock.type == socket.SOCK_STREAM and port in (sock.getsockname()[1], sock.getpeername()[1])
    return False


def sockets_of(port) -> list[socket.socket]:
    """All connected TCP sockets of this process from or to a port, duplicated."""
    descriptors = [int(name.name) for name in Path("/proc/self/fd").iterdir() if name.is_socket()]
    found = [socket.socket(fileno=os.dup(descriptor)) for descriptor in descriptors]
    for other in (sock for sock in found if not is_of(sock, port)):
        other.close()
    return [sock for sock in found if sock.fileno() >= 0]


def read_back(responder, level, option, **asked) -> list[int]:
    """Values of an option on all sockets of an armed session: one control socket and three data sockets at each end."""
    engine = admitted(responder, "tcp_stream", streams=3, **asked)
    engine.arm()
    sockets = sockets_of(responder.port)
    values = sorted(sock.getsockopt(level, option) for sock in sockets)
    for sock in sockets:
        sock.close()
    engine.close()
    assert len(values) == 8
    return values


@pytest.mark.parametrize(
    ("asked", "level", "option", "value"),
    [
        ({"dscp": 46}, IP, socket.IP_TOS, 46 << 2),
        ({"sndbuf_bytes": 100_000}, SOL, socket.SO_SNDBUF, 200_000),
        ({"rcvbuf_bytes": 100_000}, SOL, socket.SO_RCVBUF, 200_000),
        ({"rate_bytes_per_s": 12_345_678}, SOL, SO_MAX_PACING_RATE, 12_345_678),
    ],
    ids=["dscp", "sndbuf", "rcvbuf", "rate"],
)
def test_an_option_is_set_on_the_data_sockets_of_both_ends(responder, asked, level, option, value):
    assert read_back(responder, level, option, **asked).count(value) == 6
    assert value not in read_back(responder, level, option)


def test_an_mss_binds_both_ends(responder):
    segments = read_back(responder, TCP, socket.TCP_MAXSEG, mss=1000)
    assert sum(500 < size <= 1000 for size in segments) == 6
    assert min(read_back(responder, TCP, socket.TCP_MAXSEG)) > 1000


@pytest.mark.parametrize("name", ALLOWED)
def test_a_congestion_control_is_set_and_read_back_at_both_ends(responder, name):
    engine = admitted(responder, "tcp_stream", direction="both", congestion=name)
    watch(engine)
    assert engine.facts["congestion_control"] == engine.responder_congestion_control == name
    engine.close()


def test_buffers_that_were_asked_for_are_read_back(responder):
    engine = admitted(responder, "tcp_stream", sndbuf_bytes=100_000, rcvbuf_bytes=50_000)
    engine.arm()
    assert engine.facts["sndbuf_bytes"] == "200000"
    assert engine.facts["rcvbuf_bytes"] == "100000"
    engine.close()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_rate_is_kept_by_who_sends(responder, direction):
    rate = 10_000_000
    engine = admitted(responder, "tcp_stream", direction=direction, rate_bytes_per_s=rate, duration_ms=1000)
    watch(engine)
    moved = engine.results["bytes"] + engine.results["sent_bytes"]
    assert 0 < moved < 2 * rate  # unpaced it is hundreds of times as much
    engine.close()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"congestion": "nonesuch"}, "kernel here refuses the congestion control nonesuch .*No such file"),
        ({"sndbuf_bytes": 2_000_000_000}, "kernel here refuses a send buffer of 2000000000"),
        ({"rcvbuf_bytes": 2_000_000_000}, "kernel here refuses a receive buffer of 2000000000"),
        ({"mss": 9}, "kernel here refuses an MSS of 9 .*Invalid argument"),
    ],
    ids=["congestion", "sndbuf", "rcvbuf", "mss"],
)
def test_what_our_kernel_refuses_is_named(responder, asked, named):
    with pytest.raises(RefusedError, match=named):
        admitted(responder, "tcp_stream", **asked).arm()


def test_what_the_peers_kernel_refuses_is_named():
    class Refuser(Ticket):
        def reply(self, hello: bytes, refused: tuple[int, int] = (0, 0)) -> bytes:
            data_socket = hello[6:8] != b"\0\0"
            return super().reply(hello, (6, errno.ENOENT) if data_socket else refused)

    ticket = Refuser()
    with slow_responder(ticket, lambda _: None) as peer:
        with pytest.raises(RefusedError, match=r"127\.0\.0\.1.*its kernel refuses the congestion control reno"):
            engine_to(peer.port, ticket, congestion="reno").arm()


@pytest.mark.parametrize(
    ("terms", "refused"),
    [
        ({"congestion": b"nonesuch"}, (6, errno.ENOENT)),
        ({"sndbuf_bytes": 2_000_000_000}, (2, errno.ENOBUFS)),
        ({"rcvbuf_bytes": 2_000_000_000}, (3, errno.ENOBUFS)),
    ],
    ids=["congestion", "sndbuf", "rcvbuf"],
)
def test_a_responder_says_what_its_kernel_refuses(responder, terms, refused):
    ticket = admit(responder, Ticket())
    nonce = os.urandom(16)
    with connect(responder.port) as control, connect(responder.port) as data:
        hello = ticket.hello(0, nonce, nonce, Terms(**terms))
        control.sendall(hello)
        assert read_exactly(control, 64) == ticket.reply(hello)
        hello = ticket.hello(1, os.urandom(16), nonce)
        data.sendall(hello)
        assert read_exactly(data, 64) == ticket.reply(hello, refused)
        assert read_exactly(data, 1) == b""


@pytest.mark.parametrize(
    ("asked", "named"), [({"dscp": 64}, "dscp 64"), ({"congestion": "x" * 16}, "'xxxxxxxxxxxxxxxx'")]
)
def test_what_cannot_be_asked_is_named(asked, named):
    with pytest.raises(UsageError, match=named):
        engine_to(1, Ticket(), **asked)
