"""The two ends of a measurement, each a process in its namespace, and what came of it."""

import contextlib
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.accuracy.namespaces import Network, Side

from cvmprobe.model.endpoint import Endpoint, EndpointTarget, PeerAddress, Role
from cvmprobe.model.endpoint import Path as Way
from cvmprobe.model.window import Direction, Instance, Phase, Probe, SampleBlock, Window
from cvmprobe.probes.execution import Setup

__all__ = ["PLENTY", "Peer", "Running", "Told", "begin", "measure", "serving"]

PLENTY = 1 << 50
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Told:
    """What an execution left, as Result has it; ``error`` is its text, or nothing."""

    windows: tuple[Window, ...]
    totals: Mapping[str, int]
    samples: tuple[SampleBlock, ...]
    error: str

    def steady(self) -> list[Window]:
        return [window for window in self.windows if window.phase is Phase.STEADY]

    def per_second(self, counter: str) -> float:
        """Rate of a counter over the steady windows."""
        steady = self.steady()
        return sum(window.counters[counter] for window in steady) / sum(window.duration_ns for window in steady) * 1e9


def start(namespace: str, *words: str) -> subprocess.Popen[bytes]:
    """Start this interpreter in a namespace; the process is our own child, by its pid."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.accuracy.inside", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Kill and reap a process however the block ends."""
    try:
        yield process
    finally:
        process.kill()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


@dataclass(frozen=True)
class Peer:
    """A responder in a namespace."""

    side: Side
    address: PeerAddress
    process: subprocess.Popen[bytes]

    def admit(self, probe: Probe, max_bytes: int = PLENTY) -> tuple[str, bytes]:
        """Let one session in; return its id and key."""
        session_id, key = uuid.uuid4().hex, os.urandom(32)
        line = f"{session_id} {key.hex()} {probe} {max_bytes}\n".encode()
        self.process.stdin.write(line)
        self.process.stdin.flush()
        assert self.process.stdout.readline() == line
        return session_id, key


@contextlib.contextmanager
def serving(side: Side, family: int = 4) -> Iterator[Peer]:
    """A responder on a side's address."""
    host = side.host(family)
    with ended(start(side.namespace, "responder", host)) as process:
        port = process.stdout.readline()
        assert port, f"no responder on {host}"
        yield Peer(side, PeerAddress(host, int(port)), process)


class Running:
    """An execution in a namespace, under way."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._told: Told | None = None

    def windows(self) -> Iterator[Window]:
        """Each window as it ends, up to the last; then told() returns at once."""
        while self._told is None:
            found = self._next()
            if isinstance(found, Window):
                yield found
            else:
                self._told = Told(*found)

    def stop(self) -> None:
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def told(self) -> Told:
        """Wait for the end."""
        for _ in self.windows():
            pass
        assert self._told is not None
        return self._told

    def _next(self) -> object:
        try:
            return pickle.load(self.process.stdout)
        except EOFError:
            raise AssertionError("the execution ended without a word; its error is above") from None


@contextlib.contextmanager
def begin(
    net: Network,
    source: Side,
    peer: Peer,
    probe: Probe,
    *,
    direction: Direction = Direction.FORWARD,
    duration_ms: int | None = 3_000,
    interval_ms: int = 100,
    max_bytes: int = PLENTY,
    raw_samples: bool = False,
    admitted: tuple[str, bytes] | None = None,
    **parameters: object,
) -> Iterator[Running]:
    """Start a probe on a side, against a responder, with ``parameters`` as its catalog entry has them.

    ``admitted``: what peer.admit() returned; None: admit it now.
    """
    session_id, key = admitted or peer.admit(probe)
    names = {net.a.namespace: "a", net.b.namespace: "b"}
    here, there = (Endpoint(names[side.namespace], Role.POD) for side in (source, peer.side))
    asked = {name: str(value) for name, value in parameters.items()}
    instance = Instance(session_id, probe, here, EndpointTarget(there, Way.INTER_NODE), direction, 0, asked)
    setup = Setup(
        instance=instance,
        interval_ms=interval_ms,
        duration_ms=duration_ms,
        max_bytes=max_bytes,
        raw_samples=raw_samples,
        peer=peer.address,
        key=key,
    )
    with ended(start(source.namespace, "probe")) as process:
        pickle.dump(setup, process.stdin)
        process.stdin.flush()
        yield Running(process)


def measure(net: Network, probe: Probe, *, family: int = 4, **asked: object) -> Told:
    """Measure from a to b, to the end; ``asked`` as begin() has it. An error of the execution fails the test."""
    with serving(net.b, family) as peer, begin(net, net.a, peer, probe, **asked) as running:
        told = running.told()
    assert not told.error, told.error
    return told
