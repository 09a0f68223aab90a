"""A relay between the two ends of a session: it loses, repeats, delays and reorders by a seed, and keeps the truth.

Connections to its port are carried to the target's port as they are; a datagram of at least ``least_bytes`` is data,
and each way has a chance of its own.
"""

import contextlib
import heapq
import random
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Disturbed", "Relay", "relaying"]

LARGEST = 1 << 16
ROOM_BYTES = 1 << 22


@dataclass
class Disturbed:
    """What the relay does to one way, and what it did: numbers in the order in which they left it."""

    seed: int
    drop: float = 0.0
    repeat: float = 0.0
    late: float = 0.0  # share of datagrams that are held back for `late_s`
    late_s: float = 0.01
    spread_s: float = 0.0  # each is held back for up to so long
    numbers: list[int] = field(default_factory=list)
    dropped: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def delays(self) -> list[float]:
        """Return after how long one datagram leaves, once for each time that it does."""
        copies = 0 if self._chance.random() < self.drop else 1 + (self._chance.random() < self.repeat)
        self.dropped += copies == 0
        late = self.late_s if self._chance.random() < self.late else 0.0
        return [late + self._chance.random() * self.spread_s for _ in range(copies)]


class Relay:
    """Runs in a thread of its own until closed; ``there`` is the way to the target, ``back`` the other."""

    def __init__(self, target_port: int, there: Disturbed, back: Disturbed, least_bytes: int = 300) -> None:
        self._target = ("127.0.0.1", target_port)
        self._ways = {"there": there, "back": back}
        self._least_bytes = least_bytes
        self._selector = selectors.DefaultSelector()
        self._held: list[tuple[float, int, socket.socket, bytes, object, str]] = []
        self._taken = 0
        self._peers: dict[object, socket.socket] = {}
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._datagrams = self._udp()
        self._datagrams.bind(("127.0.0.1", self.port))
        self._watch(self._listener, self._accept)
        self._watch(self._datagrams, self._take_there)
        self._thread = threading.Thread(target=self._run, name="udp-relay")
        self._thread.start()

    def _udp(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM_BYTES)
        return sock

    def _watch(self, sock: socket.socket, action) -> None:
        sock.setblocking(False)
        self._sockets.append(sock)
        self._selector.register(sock, selectors.EVENT_READ, action)

    def _run(self) -> None:
        while not self._over.is_set():
            left = self._held[0][0] - time.monotonic() if self._held else 0.02
            for key, _ in self._selector.select(max(0.0, min(left, 0.02))):
                key.data(key.fileobj)
            while self._held and self._held[0][0] <= time.monotonic():
                self._pass_on(*heapq.heappop(self._held)[2:])

    # -- connections --

    def _accept(self, listener: socket.socket) -> None:
        here, _ = listener.accept()
        there = socket.create_connection(self._target)
        self._watch(here, lambda sock: self._carry(sock, there))
        self._watch(there, lambda sock: self._carry(sock, here))

    def _carry(self, source: socket.socket, to: socket.socket) -> None:
        try:
            data = source.recv(LARGEST)
            to.setblocking(True)
            to.sendall(data) if data else to.shutdown(socket.SHUT_WR)
            to.setblocking(False)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(source)

    # -- datagrams --

    def _take_there(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                data, peer = sock.recvfrom(LARGEST)
                if peer not in self._peers:
                    self._peers[peer] = self._udp()
                    self._peers[peer].connect(self._target)
                    self._watch(self._peers[peer], lambda target, peer=peer: self._take_back(target, peer))
                self._hold(self._peers[peer], data, None, "there")

    def _take_back(self, target: socket.socket, peer: object) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            for _ in range(64):
                self._hold(self._datagrams, target.recv(LARGEST), peer, "back")

    def _hold(self, to: socket.socket, data: bytes, peer: object, way: str) -> None:
        if len(data) < self._least_bytes:
            self._pass_on(to, data, peer, way)
            return
        for delay in self._ways[way].delays():
            self._taken += 1
            heapq.heappush(self._held, (time.monotonic() + delay, self._taken, to, data, peer, way))

    def _pass_on(self, to: socket.socket, data: bytes, peer: object, way: str) -> None:
        if len(data) >= self._least_bytes:
            self._ways[way].numbers.append(int.from_bytes(data[8:16], "little"))
        with contextlib.suppress(OSError):
            to.sendto(data, peer) if peer else to.send(data)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._selector.close()
        for sock in self._sockets:
            sock.close()


@contextlib.contextmanager
def relaying(target_port: int, there: Disturbed, back: Disturbed) -> Iterator[Relay]:
    relay = Relay(target_port, there, back)
    try:
        yield relay
    finally:
        relay.close()
