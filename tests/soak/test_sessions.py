"""A thousand sessions of all kinds at once on one responder: none starves, and nothing of them stays.

CVMPROBE_SOAK=1 python -m pytest tests/soak/test_sessions.py     in full: 1,000 sessions for 60 s; a tenth without

The responder lives in a process of its own. Sessions are held by slow initiators on one thread, each of which keeps
asking; a session that is not answered for STARVED_S has starved.
"""

import multiprocessing
import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import pytest
from tests.native.leaks import descriptors, resident_bytes, threads
from tests.native.slow_session import SlowInitiator, Terms, Ticket

from cvmprobe.probes.responder import Responder

SHARE = 1.0 if os.environ.get("CVMPROBE_SOAK") else 0.1
SESSIONS = int(1000 * SHARE)
DURATION_S = 60 * SHARE
STARVED_S = 10.0
PAUSE_S = 0.02 * SESSIONS / 100  # between two looks at all sessions: some 5,000 requests a second in all
KEPT_BYTES = 16 << 20  # what an allocator may keep for the next time
KEY = bytes(range(32))

ROUND_TRIPS = {
    "tcp_rr": Terms(duration_ms=0, response_bytes=1),
    "udp_rr": Terms(duration_ms=0, request_bytes=16, response_bytes=16),
}
STREAMS = {
    "tcp_stream": Terms(duration_ms=600_000, interval_ms=1000),
    "udp_stream": Terms(duration_ms=600_000, interval_ms=1000, request_bytes=1000),
}
KINDS = [*ROUND_TRIPS, *STREAMS]


@dataclass(frozen=True)
class State:
    """What a process has open, and what its responder counts."""

    descriptors: int
    threads: int
    resident_bytes: int
    counts: dict[str, int]


def serve(pipe: Connection) -> None:
    """Run a responder, and tell its state whenever asked, until the pipe is closed."""
    responder = Responder("127.0.0.1", 0)
    responder.admit_any(KEY, valid_for_ms=3_600_000, max_bytes=1 << 40)
    pipe.send(responder.port)
    try:
        while pipe.recv():
            pipe.send(State(len(descriptors()), threads(), resident_bytes(), dict(responder.counters())))
    except EOFError:
        responder.close()


@dataclass
class Peer:
    """A responder in another process."""

    port: int
    pipe: Connection

    def state(self) -> State:
        self.pipe.send(True)
        return self.pipe.recv()

    def settled(self) -> State:
        """Wait until no session is open and return the state then."""
        end = time.monotonic() + 60
        while (state := self.state()).counts["active"]:
            assert time.monotonic() < end, f"{state.counts['active']} sessions are still open"
            time.sleep(0.05)
        return state


@pytest.fixture
def peer() -> Iterator[Peer]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 4 * SESSIONS:
        pytest.skip(f"{most} descriptors are allowed: too few for {SESSIONS} sessions")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    theirs.close()
    yield Peer(ours.recv(), ours)
    ours.close()
    process.join(30)
    assert process.exitcode == 0


def opened(peer: Peer, count: int) -> list[SlowInitiator]:
    """Open so many sessions, of all kinds in turn, from several threads."""
    found: list[SlowInitiator | None] = [None] * count

    def some(first: int) -> None:
        for index in range(first, count, 8):
            kind = KINDS[index % len(KINDS)]
            found[index] = SlowInitiator(peer.port, Ticket(kind, key=KEY), (ROUND_TRIPS | STREAMS)[kind])

    workers = [threading.Thread(target=some, args=(first,)) for first in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [session for session in found if session is not None]


class Load:
    """Keeps one request under way in each round-trip session, and a trickle in each stream."""

    def __init__(self, sessions: list[SlowInitiator]) -> None:
        self.sessions = sessions
        self.asked = [0] * len(sessions)
        self.answered = [0] * len(sessions)
        self.longest_s = 0.0
        self._asked_at = [0.0] * len(sessions)
        self._selector = selectors.DefaultSelector()
        for index, session in enumerate(sessions):
            if session.ticket.probe in ROUND_TRIPS:
                self._selector.register(session.data[0], selectors.EVENT_READ, index)

    def _ask(self, index: int) -> None:
        session = self.sessions[index]
        size = session.terms.request_bytes
        payload = session.datagram(1, self.asked[index], size) if session.udp else bytes(size)
        session.data[0].send(payload)
        self.asked[index] += 1
        self._asked_at[index] = time.monotonic()

    def _take_answers(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            index = key.data
            assert key.fileobj.recv(100), "a session was closed under load"
            self.answered[index] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - self._asked_at[index])

    def run(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            for index, session in enumerate(self.sessions):
                stream = session.ticket.probe in STREAMS
                if stream or self.asked[index] == self.answered[index]:
                    self._ask(index)
                else:
                    assert time.monotonic() - self._asked_at[index] < STARVED_S, f"session {index} starves"
            again = time.monotonic() + PAUSE_S
            while (left := again - time.monotonic()) > 0:
                self._take_answers(left)
        while any(
            self.asked[index] > self.answered[index]
            for index, session in enumerate(self.sessions)
            if session.ticket.probe in ROUND_TRIPS
        ):
            self._take_answers(STARVED_S)
        self._selector.close()


def drained(sessions: list[SlowInitiator]) -> list[tuple[int, ...]]:
    """End all sessions, then take the results of all."""
    for session in sessions:
        for sock in [session.control] if session.udp else session.data:
            sock.shutdown(socket.SHUT_WR)
    results = [session.read_results() for session in sessions]
    for session in sessions:
        session.close()
    return [result[0] for result in results if result is not None]


def test_sessions_of_all_kinds_at_once(peer: Peer):
    """Once around to warm up, then under load: descriptors and threads are back to the number, memory nearly."""
    drained(opened(peer, SESSIONS))
    before = peer.settled()
    sessions = opened(peer, SESSIONS)
    assert peer.state().counts["active"] == len(sessions) == SESSIONS
    load = Load(sessions)
    load.run(DURATION_S)
    results = drained(sessions)
    after = peer.settled()
    print(
        f"{SESSIONS} sessions for {DURATION_S:g} s: {sum(load.asked)} requests and messages, longest answer "
        f"{load.longest_s:.3f} s, {after.descriptors} descriptors, {after.threads} threads, "
        f"{after.resident_bytes - before.resident_bytes:+d} bytes"
    )
    assert len(results) == SESSIONS, "some session was cut"
    assert all(asked > 0 for asked in load.asked)
    for session, counts, asked in zip(sessions, results, load.asked, strict=True):
        if session.ticket.probe in ROUND_TRIPS:
            assert counts[1] == asked
        elif not session.udp:
            assert counts[0] == asked
    assert (after.descriptors, after.threads) == (before.descriptors, before.threads)
    assert after.resident_bytes - before.resident_bytes < KEPT_BYTES
    assert after.counts["short"] == after.counts["cut"] == 0
