"""What the network benches share: both sides as processes, their CPU, and a case of a comparison."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pairs import Figure

from cvmprobe.model.endpoint import PeerAddress
from cvmprobe.model.session import Session
from cvmprobe.native.engine import Snapshot
from cvmprobe.native.initiator import Initiator

__all__ = ["Case", "OurResponder", "client", "pinned", "process_cpu_s", "run_to_the_end", "server", "version_of"]

PLENTY = 1 << 60
CPU_CLOCK = 2  # with the complement of a process id: the kernel's id of that process's CPU clock
WAITS = {"tcp": "0A", "udp": "07"}  # the states of a listening and of an unconnected socket

RESPONDER = """
import sys
from cvmprobe.native.responder import Responder
responder = Responder("127.0.0.1")
print(responder.port, flush=True)
for line in sys.stdin:
    probe, session_id, key = line.split()
    responder.admit(bytes.fromhex(session_id), bytes.fromhex(key), probe, valid_for_ms=600_000, max_bytes=1 << 60)
    print("admitted", flush=True)
"""


def process_cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    return time.clock_gettime(~pid << 3 | CPU_CLOCK)


def pinned(cpu: int, command: list[str]) -> list[str]:
    """The command, run on this CPU alone."""
    return ["taskset", "-c", str(cpu), *command]


class OurResponder:
    """A responder in a process of its own, which ends with our end of its standard input."""

    def __init__(self) -> None:
        arguments = [sys.executable, "-c", RESPONDER]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def session(self, probe: str) -> Session:
        """Admit a new session, and return it."""
        session_id, key = os.urandom(16), os.urandom(32)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{probe} {session_id.hex()} {key.hex()}\n")
        self._process.stdin.flush()
        assert self._line() == "admitted\n"
        return Session(PeerAddress("127.0.0.1", self._port), session_id, key, PLENTY)

    def cpu_s(self) -> float:
        """CPU seconds of its process so far."""
        return process_cpu_s(self._process.pid)

    @contextlib.contextmanager
    def on(self, cpu: int) -> Iterator[None]:
        """Run on this CPU alone meanwhile."""
        before = os.sched_getaffinity(self._process.pid)
        self._run_on({cpu})
        yield
        self._run_on(before)

    def _run_on(self, cpus: set[int]) -> None:
        for thread in Path("/proc", str(self._process.pid), "task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # the thread of a session that is over
                os.sched_setaffinity(int(thread.name), cpus)

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=10)


def run_to_the_end(engine: Initiator, seconds: float) -> tuple[Snapshot, Mapping[str, int]]:
    """Run an engine; return its totals, and what the responder counted."""
    engine.arm()
    engine.start()
    last = engine.snapshot(engine.started_ns + int((seconds + 60) * 1e9))
    engine.stop()
    results = engine.results
    if engine.error is not None or results is None:
        sys.exit(f"our engine failed: {engine.error}")
    return last, results


def listening(port: int) -> bool:
    """Whether a socket waits on this port for anybody, without sending it anything."""
    return any(
        row.split()[1].endswith(f":{port:04X}") and row.split()[3] == state
        for protocol, state in WAITS.items()
        for table in (Path("/proc/net", protocol), Path("/proc/net", f"{protocol}6"))
        if table.exists()
        for row in table.read_text().splitlines()
    )


@contextlib.contextmanager
def server(command: Callable[[int], list[str]]) -> Iterator[tuple[int, Callable[[], float]]]:
    """Run a peer's server on a free port; the second tells its CPU seconds so far, or, afterwards, in all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole_s: list[float] = []
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not listening(port):
            if time.monotonic() > end:
                sys.exit(f"{command(port)[0]} does not listen on port {port}")
            time.sleep(0.01)
        yield port, lambda: whole_s[0] if whole_s else process_cpu_s(process.pid)
    finally:
        os.kill(process.pid, signal.SIGTERM)  # terminate() would reap it, and its usage with it
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        whole_s.append(usage.ru_utime + usage.ru_stime)


def client(command: list[str], seconds: float) -> tuple[str, float]:
    """Run a peer's client; return its output and CPU seconds."""
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    after = os.times()
    return done.stdout, after.children_user + after.children_system - before.children_user - before.children_system


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: what both sides do."""

    name: str
    peer: str
    figures: list[Figure]
    settings: dict[str, str]
    ours: Callable[[OurResponder, float], dict[str, float]]
    theirs: Callable[[float], dict[str, float]]


def version_of(program: str) -> str:
    """Return what a program says of its version, in one line."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return re.sub(r"[\s,]+", " ", said.splitlines()[0]).strip()
