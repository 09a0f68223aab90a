"""A responder of UDP sessions again, slow and plain, that answers, loses, repeats and delays as it is told."""

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

from tests.native.slow_session import HELLO, PATIENCE_S, Terms, Ticket, cookie_datagram, mac, read_exactly

Answer = Callable[[int], list[float]]
"""Given the number of a request, the delays in seconds after which it is answered; none: it is lost."""


class SlowUdpResponder:
    """Serves one session with any number of UDP data sockets, on one thread."""

    def __init__(self, ticket: Ticket, answer: Answer, *, openings_lost: int = 0) -> None:
        self.ticket = ticket
        self.terms = Terms()
        self.requests: list[int] = []
        self.dialed = 0
        self.failure: BaseException | None = None
        self._answer = answer
        self._openings_lost = openings_lost
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind(("127.0.0.1", self.port))
        self._due: list[tuple[float, bytes, tuple[str, int]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-udp-responder")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._listener.settimeout(PATIENCE_S)
            control, _ = self._listener.accept()
            with control:
                control.settimeout(PATIENCE_S)
                hello = read_exactly(control, 96)
                self.terms = Terms.unpacked(read_exactly(control, 96))
                control.sendall(self.ticket.reply(hello))
                self._serve(control, hello[24:40])
        except OSError as error:
            if not self._over.is_set():
                self.failure = error
        except BaseException as error:  # noqa: BLE001 - handed over to the test
            self.failure = error

    def _serve(self, control: socket.socket, nonce: bytes) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(control, selectors.EVENT_READ)
            selector.register(self._datagrams, selectors.EVENT_READ)
            while not self._over.is_set():
                ready = [key.fileobj for key, _ in selector.select(self._wait())]
                self._send_due()
                if self._datagrams in ready:
                    self._take(*self._datagrams.recvfrom(1 << 16), nonce)
                if control in ready:
                    with contextlib.suppress(ConnectionResetError):  # an initiator that was stopped
                        assert control.recv(1) == b""
                    break
        size = self.terms.request_bytes + self.terms.response_bytes
        counts = (size * len(self.requests), len(self.requests), 1, 2, 3, *[0] * 8)
        with contextlib.suppress(OSError):  # an initiator that was stopped does not wait for them
            control.sendall(self.ticket.results(nonce, counts, []))

    def _wait(self) -> float:
        return max(0.0, min((at for at, *_ in self._due), default=time.monotonic() + 0.01) - time.monotonic())

    def _send_due(self) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._due if entry[0] <= now]:
            self._due.remove(entry)
            self._datagrams.sendto(*entry[1:])

    def _take(self, data: bytes, peer: tuple[str, int], nonce: bytes) -> None:
        if data == cookie_datagram():
            self._datagrams.sendto(cookie_datagram(b"c" * 16), peer)
        elif data[:4] == b"CVMC":
            self._greet(data, peer, nonce)
        else:
            _, _, number = struct.unpack_from("<IIQ", data)
            assert len(data) == self.terms.request_bytes
            self.requests.append(number)
            response = data[:16] + bytes(self.terms.response_bytes - 16)
            self._due += [(time.monotonic() + delay_s, response, peer) for delay_s in self._answer(number)]

    def _greet(self, data: bytes, peer: tuple[str, int], nonce: bytes) -> None:
        self.dialed += 1
        hello = data[24:]
        assert data[:24] == cookie_datagram(b"c" * 16)
        assert len(hello) == 96
        assert struct.unpack_from(HELLO, hello)[6] == nonce
        assert hello[64:] == mac(self.ticket.key, hello[:64])
        if self.dialed > self._openings_lost:
            self._datagrams.sendto(self.ticket.reply(hello), peer)

    def close(self) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)
        self._listener.close()
        self._datagrams.close()
        if self.failure is not None:
            raise self.failure


@contextlib.contextmanager
def slow_udp(answer: Answer, **options: int) -> Iterator[SlowUdpResponder]:
    responder = SlowUdpResponder(Ticket("udp_rr", os.urandom(16)), answer, **options)
    try:
        yield responder
    finally:
        responder.close()
