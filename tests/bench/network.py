"""tcp_stream beside iperf3 and tcp_rr beside sockperf over loopback, pair by pair.

    python tests/bench/network.py [--seconds 1] [--pairs 10] [--only tcp_stream-1]

Every side is two processes. Streams: 128 KiB messages, kernel default buffers and congestion control, the first second
left out, the receiver's figure. Round trips: 14 bytes each way (sockperf's least), the full round trip, the first
0.4 s left out; `spin` is sockperf's --nonblocked. CPU is user and system time: of our threads, of their processes.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pairs import Comparison, Figure, compare, print_comparison, write_json

from cvmprobe.native.histogram import Histogram, bucket_upper
from cvmprobe.native.tcp_rr import TcpRr
from cvmprobe.native.tcp_stream import TcpStream

RESULT = Path("build/bench/network.json")
MESSAGE_BYTES = 128 * 1024
REQUEST_BYTES = 14
STREAM_OMIT_S = 1
RR_OMIT_S = 0.4
PLENTY = 1 << 60
LISTEN = "0A"  # as /proc/net/tcp has it

STREAM_FIGURES = [
    Figure("goodput", "Gbit/s", higher_is_better=True),
    Figure("sender CPU", "us per MB", higher_is_better=False),
    Figure("receiver CPU", "us per MB", higher_is_better=False),
]
RR_FIGURES = [
    Figure("mean", "us", higher_is_better=False),
    Figure("p50", "us", higher_is_better=False),
    Figure("p99", "us", higher_is_better=False),
    Figure("initiator CPU", "us per transaction", higher_is_better=False),
]

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


class OurResponder:
    """A responder in a process of its own, which ends with our end of its standard input."""

    def __init__(self) -> None:
        arguments = [sys.executable, "-c", RESPONDER]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def session(self, probe: str) -> dict:
        """Admit a new session; return the arguments an engine dials it with."""
        session_id, key = os.urandom(16), os.urandom(32)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{probe} {session_id.hex()} {key.hex()}\n")
        self._process.stdin.flush()
        assert self._line() == "admitted\n"
        return {
            "host": "127.0.0.1",
            "port": self._port,
            "session_id": session_id,
            "key": key,
            "max_bytes": PLENTY,
        }

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=10)


def listening(port: int) -> bool:
    """Whether a TCP socket listens on this port, without connecting to it."""
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    rows = [row.split() for table in tables if table.exists() for row in table.read_text().splitlines()]
    return any(row[1].endswith(f":{port:04X}") and row[3] == LISTEN for row in rows)


@contextlib.contextmanager
def server(command: Callable[[int], list[str]]) -> Iterator[tuple[int, list[float]]]:
    """Run a peer's server on a free port; afterwards the list holds its CPU seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cpu_s: list[float] = []
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not listening(port):
            if time.monotonic() > end:
                sys.exit(f"{command(port)[0]} does not listen on port {port}")
            time.sleep(0.01)
        yield port, cpu_s
    finally:
        os.kill(process.pid, signal.SIGTERM)  # terminate() would reap it, and its usage with it
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        cpu_s.append(usage.ru_utime + usage.ru_stime)


def client(command: list[str], seconds: float) -> tuple[str, float]:
    """Run a peer's client; return its output and CPU seconds."""
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    after = os.times()
    return done.stdout, after.children_user + after.children_system - before.children_user - before.children_system


def our_stream(responder: OurResponder, streams: int, seconds: float) -> dict[str, float]:
    """Measure with our engine."""
    engine = TcpStream(
        **responder.session("tcp_stream"),
        duration_ms=int((STREAM_OMIT_S + seconds) * 1000),
        interval_ms=100,
        streams=streams,
        message_bytes=MESSAGE_BYTES,
    )
    engine.arm()
    engine.start()
    last = engine.snapshot(engine.started_ns + int((seconds + 60) * 1e9))
    engine.stop()
    results = engine.results
    if engine.error is not None or results is None:
        sys.exit(f"our engine failed: {engine.error}")
    counted = sum(engine.bins["bytes"][STREAM_OMIT_S * 10 : -1])
    engine.close()
    megabytes = results["bytes"] / 1e6
    return {
        "goodput": counted * 8 / seconds / 1e9,
        "sender CPU": last.counters["cpu_ns"] / 1000 / megabytes,
        "receiver CPU": results["cpu_ns"] / 1000 / megabytes,
    }


def iperf3_stream(streams: int, seconds: float) -> dict[str, float]:
    """Measure with iperf3, told to do the same."""
    with server(lambda port: ["iperf3", "-s", "-1", "-p", str(port)]) as (port, server_cpu_s):
        command = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-P", str(streams), "-l", str(MESSAGE_BYTES), "-J"]
        output, cpu_s = client([*command, "-O", str(STREAM_OMIT_S), "-t", str(seconds)], seconds)
    report = json.loads(output)
    megabytes = sum(interval["sum"]["bytes"] for interval in report["intervals"]) / 1e6
    return {
        "goodput": report["end"]["sum_received"]["bits_per_second"] / 1e9,
        "sender CPU": cpu_s * 1e6 / megabytes,
        "receiver CPU": server_cpu_s[0] * 1e6 / megabytes,
    }


def percentile_us(histogram: Histogram, q: float) -> float:
    """Upper bound of the bucket that holds the q-th value (0.3 % wide)."""
    indices, counts = histogram.sparse()
    left = q * histogram.count
    for index, count in zip(indices, counts, strict=True):
        left -= count
        if left <= 0:
            return bucket_upper(index) / 1000
    return float("nan")


def our_rr(responder: OurResponder, seconds: float, *, spin: bool) -> dict[str, float]:
    """Measure with our engine."""
    engine = TcpRr(
        **responder.session("tcp_rr"),
        duration_ms=int((RR_OMIT_S + seconds) * 1000),
        request_bytes=REQUEST_BYTES,
        response_bytes=REQUEST_BYTES,
        spin=spin,
    )
    engine.arm()
    engine.start()
    first = engine.snapshot(engine.started_ns + int(RR_OMIT_S * 1e9))
    last = engine.snapshot(engine.started_ns + int((seconds + 60) * 1e9))
    engine.stop()
    if engine.error is not None:
        sys.exit(f"our engine failed: {engine.error}")
    engine.close()
    latency = last.histograms["latency_ns"].minus(first.histograms["latency_ns"])
    return {
        "mean": latency.sum / latency.count / 1000,
        "p50": percentile_us(latency, 0.5),
        "p99": percentile_us(latency, 0.99),
        "initiator CPU": last.counters["cpu_ns"] / 1000 / last.counters["transactions"],
    }


def sockperf_rr(seconds: float, *, spin: bool) -> dict[str, float]:
    """Measure with sockperf, told to do the same."""
    wait = ["--nonblocked"] if spin else []
    with server(lambda port: ["sockperf", "server", "--tcp", "-i", "127.0.0.1", "-p", str(port), *wait]) as (port, _):
        command = ["sockperf", "ping-pong", "--tcp", "-i", "127.0.0.1", "-p", str(port), *wait]
        output, cpu_s = client([*command, "--full-rtt", "-m", str(REQUEST_BYTES), "-t", str(seconds)], seconds)

    def found(pattern: str) -> float:
        match = re.search(pattern, output)
        if match is None:
            sys.exit(f"sockperf said something unknown:\n{output}")
        return float(match[1])

    return {
        "mean": found(r"Round trip is ([\d.]+) usec"),
        "p50": found(r"percentile 50\.000 = +([\d.]+)"),
        "p99": found(r"percentile 99\.000 = +([\d.]+)"),
        "initiator CPU": cpu_s * 1e6 / found(r"\[Total Run\].*SentMessages=(\d+)"),
    }


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: what both sides do."""

    name: str
    peer: str
    figures: list[Figure]
    settings: dict[str, str]
    ours: Callable[[OurResponder, float], dict[str, float]]
    theirs: Callable[[float], dict[str, float]]


def stream_case(streams: int) -> Case:
    """Describe a bulk transfer over so many connections."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return Case(
        f"tcp_stream-{streams}",
        "iperf3",
        STREAM_FIGURES,
        {"streams": str(streams), "message_bytes": str(MESSAGE_BYTES), "congestion_control": congestion},
        lambda responder, seconds: our_stream(responder, streams, seconds),
        lambda seconds: iperf3_stream(streams, seconds),
    )


def rr_case(wait: str) -> Case:
    """Describe round trips that wait in this way."""
    spin = wait == "spin"
    return Case(
        f"tcp_rr-{wait}",
        "sockperf",
        RR_FIGURES,
        {"wait": wait, "bytes": str(REQUEST_BYTES)},
        lambda responder, seconds: our_rr(responder, seconds, spin=spin),
        lambda seconds: sockperf_rr(seconds, spin=spin),
    )


CASES = [stream_case(1), stream_case(4), rr_case("block"), rr_case("spin")]


def version_of(program: str) -> str:
    """Return what a program says of its version, in one line."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return re.sub(r"[\s,]+", " ", said.splitlines()[0]).strip()


def main() -> None:
    """Compare every case whose peer is there, print as it goes, and keep all pairs as JSON."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=int, default=1)
    arguments.add_argument("--pairs", type=int, default=10)
    arguments.add_argument("--only", choices=[case.name for case in CASES], action="append")
    chosen = arguments.parse_args()
    comparisons: list[Comparison] = []
    responder = OurResponder()
    try:
        for case in CASES:
            if chosen.only and case.name not in chosen.only:
                continue
            if shutil.which(case.peer) is None:
                sys.stdout.write(f"{case.name}: skipped: {case.peer} is not installed (apt-get install {case.peer})\n")
                continue
            for comparison in compare(
                case.name,
                ours=lambda case=case: case.ours(responder, chosen.seconds),
                peer=lambda case=case: case.theirs(chosen.seconds),
                figures=case.figures,
                peer_version=version_of(case.peer),
                settings={**case.settings, "seconds": str(chosen.seconds)},
                count=chosen.pairs,
            ):
                print_comparison(comparison)
                comparisons.append(comparison)
            write_json(RESULT, comparisons)
    finally:
        responder.close()


if __name__ == "__main__":
    main()
