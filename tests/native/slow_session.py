"""Both ends of a session again, slow and plain: struct, hmac and blocking sockets, nothing of ours."""

import contextlib
import hmac
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from typing import Self

KINDS = {"tcp_stream": 1, "tcp_rr": 2, "tcp_crr": 3, "udp_rr": 4, "udp_stream": 5}
VERSION = 2
HELLO = "<4sBBH16s16s16sH6s"
TERMS = "<HBBBBBxIIIIIIIxxxxQQ16s24x"
REPLY = "<4sBBH16sII"
RESULTS = "<4sBBH16s8x48Q"
RESULT_COUNTS = 48
RESULT_BYTES = struct.calcsize(RESULTS)
UNKNOWN = 2**64 - 1
SERIES = 4
PATIENCE_S = 30


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), "sha256").digest()


@dataclass
class Terms:
    sockets: int = 1
    direction: int = 0
    wait: int = 0
    receive: int = 0
    dscp: int = 0
    offload: int = 0
    interval_ms: int = 100
    duration_ms: int = 1000
    request_bytes: int = 1
    response_bytes: int = 0
    sndbuf_bytes: int = 0
    rcvbuf_bytes: int = 0
    mss: int = 0
    rate_bytes_per_s: int = 0
    byte_limit: int = 0
    congestion: bytes = b""

    def packed(self) -> bytes:
        return struct.pack(TERMS, *astuple(self))

    @classmethod
    def unpacked(cls, data: bytes) -> Self:
        *numbers, congestion = struct.unpack(TERMS, data)
        return cls(*numbers, congestion.rstrip(b"\0"))


@dataclass
class Ticket:
    """What both ends of a session know: its id, key and probe."""

    probe: str = "tcp_stream"
    session_id: bytes = field(default_factory=lambda: os.urandom(16))
    key: bytes = field(default_factory=lambda: os.urandom(32))

    def hello(self, index: int, nonce: bytes, control_nonce: bytes, terms: Terms | None = None) -> bytes:
        tail = terms.packed() if terms else b""
        head = struct.pack(
            HELLO,
            b"CVMP",
            VERSION,
            KINDS[self.probe],
            index,
            self.session_id,
            nonce,
            control_nonce,
            len(tail),
            bytes(6),
        )
        return head + mac(self.key, head, tail) + tail

    def reply(self, hello: bytes, refused: tuple[int, int] = (0, 0)) -> bytes:
        index, nonce = struct.unpack_from("<H", hello, 6)[0], hello[24:40]
        head = struct.pack(REPLY, b"CVMR", VERSION, KINDS[self.probe], index, nonce, *refused)
        return head + mac(self.key, head, hello[64:96])

    def results(self, control_nonce: bytes, counts: tuple[int, ...], bins: list[int]) -> bytes:
        """Sealed results: ``counts`` as far as they are known, ``bins`` of the first series, the others zero."""
        known = (*counts, *[UNKNOWN] * (RESULT_COUNTS - len(counts)))
        head = struct.pack(RESULTS, b"CVMT", VERSION, KINDS[self.probe], len(bins), control_nonce, *known)
        tail = struct.pack(f"<{SERIES * len(bins)}Q", *bins, *[0] * ((SERIES - 1) * len(bins)))
        return head + mac(self.key, head, tail) + tail


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes, or fewer where the other end closes first."""
    data = b""
    while len(data) < size:
        try:
            piece = sock.recv(size - len(data))
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return data


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def cookie_datagram(cookie: bytes = bytes(16)) -> bytes:
    """What asks for a cookie, and what gives it."""
    return struct.pack("<4sB3x16s", b"CVMC", VERSION, cookie)


def connect_udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE_S)
    sock.connect(("127.0.0.1", port))
    return sock


def closed_without_a_word(sock: socket.socket) -> bool:
    return read_exactly(sock, 1) == b""


class SlowInitiator:
    """Dials a responder, as an engine would."""

    def __init__(self, port: int, ticket: Ticket, terms: Terms) -> None:
        self.port, self.ticket, self.terms = port, ticket, terms
        self.nonce = os.urandom(16)
        self.sockets: list[socket.socket] = []
        self.series: list[list[int]] = []  # all of them, once the results are read
        self.sockets.append(self.dial(ticket.hello(0, self.nonce, self.nonce, terms)))
        for index in range(1, terms.sockets + 1):
            hello = ticket.hello(index, os.urandom(16), self.nonce)
            self.sockets.append(self.dial_udp_patiently(index) if self.udp else self.dial(hello))

    @property
    def udp(self) -> bool:
        """Whether the data sockets are."""
        return self.ticket.probe.startswith("udp")

    def dial(self, hello: bytes) -> socket.socket:
        sock = connect(self.port)
        sock.sendall(hello)
        answer = read_exactly(sock, 64)
        assert answer == self.ticket.reply(hello), f"{hello!r} was answered {answer!r}"
        return sock

    def dial_udp_patiently(self, index: int) -> socket.socket:
        """Dial anew where an opening is lost: the socket that is made for another's may catch it."""
        for _ in range(PATIENCE_S):
            with contextlib.suppress(TimeoutError):
                return self.dial_udp(self.ticket.hello(index, os.urandom(16), self.nonce), 1)
        raise AssertionError(f"data socket {index} is not answered")

    def dial_udp(self, hello: bytes, patience_s: int = PATIENCE_S) -> socket.socket:
        with contextlib.ExitStack() as unless_answered:
            sock = unless_answered.enter_context(connect_udp(self.port))
            sock.settimeout(patience_s)
            sock.send(cookie_datagram())
            cookie = sock.recv(100)
            assert cookie == cookie_datagram(cookie[8:])
            sock.send(cookie + hello)
            assert sock.recv(100) == self.ticket.reply(hello)
            sock.settimeout(PATIENCE_S)
            unless_answered.pop_all()
        return sock

    def datagram(self, index: int, sequence: int, size: int = 16) -> bytes:
        """A payload datagram of the data socket with this index, from 1."""
        tag = struct.unpack("<I", self.nonce[:4])[0] ^ index * 0x9E3779B1 & 0xFFFFFFFF
        return struct.pack("<IIQ", tag, 0, sequence) + bytes(size - 16)

    @property
    def control(self) -> socket.socket:
        return self.sockets[0]

    @property
    def data(self) -> list[socket.socket]:
        return self.sockets[1:]

    def drain(self) -> tuple[tuple[int, ...], list[int]] | None:
        """FIN everywhere, then the results: all counts, and the bins of the first series; None if cut."""
        for sock in [self.control] if self.udp else self.data:
            sock.shutdown(socket.SHUT_WR)
        return self.read_results()

    def read_results(self) -> tuple[tuple[int, ...], list[int]] | None:
        head = read_exactly(self.control, RESULT_BYTES + 32)
        if len(head) < RESULT_BYTES + 32:
            return None
        magic, version, kind, bins, nonce, *counts = struct.unpack_from(RESULTS, head)
        assert (magic, version, kind, nonce) == (b"CVMT", VERSION, KINDS[self.ticket.probe], self.nonce)
        tail = read_exactly(self.control, 8 * bins * SERIES)
        assert head[RESULT_BYTES:] == mac(self.ticket.key, head[:RESULT_BYTES], tail)
        self.series = [list(struct.unpack_from(f"<{bins}Q", tail, 8 * bins * index)) for index in range(SERIES)]
        return tuple(counts), self.series[0]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SlowResponder:
    """Serves one session on a thread; `serve` has the data sockets and tells what to say in the results."""

    def __init__(self, ticket: Ticket, serve: Callable[["SlowResponder"], bytes | None]) -> None:
        self.ticket = ticket
        self.sockets: list[socket.socket] = []
        self.control_nonce = b""
        self.terms = Terms()
        self.over = threading.Event()  # the test is done with us
        self.failure: BaseException | None = None
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="slow-responder")
        self._thread.start()

    @property
    def data(self) -> list[socket.socket]:
        return self.sockets[1:]

    def _run(self) -> None:
        try:
            self._listener.settimeout(PATIENCE_S)
            while not self.sockets or len(self.sockets) <= self.terms.sockets:
                self._greet()
            results = self._serve(self)
            if results is not None:
                self.sockets[0].sendall(results)
        except OSError as error:
            if not self.over.is_set():
                self.failure = error
        except BaseException as error:  # noqa: BLE001 - handed over to the test
            self.failure = error

    def _greet(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = read_exactly(sock, 96)
        magic, version, kind, index, session_id, nonce, control_nonce, tail_bytes, zero = struct.unpack_from(
            HELLO, hello
        )
        tail = read_exactly(sock, tail_bytes)
        assert (magic, version, kind, zero) == (b"CVMP", VERSION, KINDS[self.ticket.probe], bytes(6))
        assert session_id == self.ticket.session_id
        assert index == len(self.sockets)
        assert hello[64:] == mac(self.ticket.key, hello[:64], tail)
        if index == 0:
            assert control_nonce == nonce
            self.control_nonce = nonce
            self.terms = Terms.unpacked(tail)
        else:
            assert control_nonce == self.control_nonce != nonce
            assert not tail
        sock.sendall(self.ticket.reply(hello))
        self.sockets.append(sock)

    def close(self) -> None:
        self.over.set()
        for sock in (self._listener, *self.sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        for sock in (self._listener, *self.sockets):
            sock.close()
        if self.failure is not None:
            raise self.failure


@contextlib.contextmanager
def slow_responder(ticket: Ticket, serve: Callable[[SlowResponder], bytes | None]) -> Iterator[SlowResponder]:
    responder = SlowResponder(ticket, serve)
    try:
        yield responder
    finally:
        responder.close()


def count_bytes(responder: SlowResponder) -> bytes:
    """Receive everything from all data sockets; all of it in bin 0."""
    counts = [0] * len(responder.data)

    def drain(index: int, sock: socket.socket) -> None:
        while piece := sock.recv(1 << 16):
            counts[index] += len(piece)

    threads = [threading.Thread(target=drain, args=item) for item in enumerate(responder.data)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    terms = responder.terms
    bins = [sum(counts)] + [0] * (-(-terms.duration_ms // terms.interval_ms))
    return responder.ticket.results(responder.control_nonce, (sum(counts), 1, 1, 2, 3), bins)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a bound."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true in {PATIENCE_S} s"
        time.sleep(0.002)
