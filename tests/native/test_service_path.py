"""A session at an address that several endpoints answer at: dialed until the wanted one answers, or not measured."""

import socket
import threading
from contextlib import ExitStack, closing, suppress
from itertools import chain, repeat

import pytest
from tests.native.admitting import admit
from tests.native.sessions import engine_to
from tests.native.slow_session import Ticket

from cvmprobe.errors import DeniedError
from cvmprobe.native.responder import Responder


class Service:
    """Leads each connection to the next of ``ports``, as a Service leads it to any of its endpoints."""

    def __init__(self, ports):
        self.connections = 0
        self._ports = ports
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._open = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self):
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._open:
            sock.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", next(self._ports)))
            self._open += [near, far]
            for ends in ((near, far), (far, near)):
                thread = threading.Thread(target=pump, args=ends)
                self._threads.append(thread)
                thread.start()


def pump(source, sink):
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def endpoints():
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Responder("127.0.0.1", 0))) for _ in range(8)]


@pytest.fixture
def through():
    with ExitStack() as stack:
        yield lambda ports: stack.enter_context(closing(Service(ports)))


def engine_for(endpoint, service, dials, probe="tcp_rr", **parameters):
    """Make an engine that looks for this endpoint behind the service."""
    return engine_to(service.port, admit(endpoint, Ticket(probe)), dials=dials, duration_ms=100, **parameters)


def measure(engine):
    with closing(engine):
        engine.arm()
        engine.start()
        while not engine.snapshot(engine.started_ns + 10**9).finished:
            pass
        engine.stop()
        return engine.results


def test_every_socket_of_a_session_finds_the_wanted_endpoint(endpoints, through):
    everywhere = [one.port for one in endpoints]
    service = through(chain.from_iterable(repeat(everywhere)))
    stream = engine_for(endpoints[5], service, 160, "tcp_stream", interval_ms=100, streams=3)
    assert measure(stream)["bytes"] > 0
    assert service.connections == 6 + 3 * 8  # the sixth was right, and from there each eighth
    rr = engine_for(endpoints[2], service, 160)
    assert measure(rr)["operations"] > 0


def test_an_endpoint_that_is_not_behind_the_address_is_not_measured_and_dialing_ends(endpoints, through):
    service = through(chain.from_iterable(repeat([one.port for one in endpoints[1:]])))
    rr = engine_for(endpoints[0], service, 30)
    with closing(rr), pytest.raises(DeniedError, match="not measured: each of 30 connections"):
        rr.arm()
    assert service.connections == 30


@pytest.mark.parametrize("dials", [0, 400])
def test_a_shared_address_is_dialed_for_longer_than_patience_with_a_silent_one_lasts(endpoints, through, dials):
    wrong, right = endpoints[0].port, endpoints[1].port
    service = through(chain(repeat(wrong, 250), repeat(right)))  # 10 ms between two: 2.5 s at least
    rr = engine_for(endpoints[1], service, dials)
    if dials:
        assert measure(rr)["operations"] > 0
    else:
        with closing(rr), pytest.raises(DeniedError, match="closed the connection without a word"):
            rr.arm()
