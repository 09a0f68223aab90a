"""tcp_rr and udp_rr beside sockperf, tcp_rr and tcp_crr beside netperf, tcp_crr beside a plain C loop.

Round trips: 14 bytes each way (sockperf's least; UDP 16, ours), the full round trip, the first 0.4 s left out; `spin`
is sockperf's --nonblocked. Connections: 16 bytes each way (our token's least); crr_loop.c is compiled here. A
percentile of ours is the geometric midpoint of its bucket (0.27 % wide).

Initiators run on one CPU and responders on another, or all on one: left to the scheduler a pair meets and parts
again, and a transaction that wakes another CPU costs several times the CPU of one that does not. CPU is counted after
the warm-up, so that neither side's start-up and evaluation is in it.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pairs import Figure
from peers import Case, OurResponder, client, pinned, process_cpu_s, server

from cvmprobe.native.engine import Engine
from cvmprobe.native.histogram import Histogram, bucket_upper
from cvmprobe.native.tcp_crr import TcpCrr
from cvmprobe.native.tcp_rr import TcpRr
from cvmprobe.native.udp_rr import UdpRr

__all__ = ["CASES", "our_rr", "percentile_us"]

HERE = Path(__file__).parent
LOOP = Path("build/bench/crr_loop")
BYTES = {"tcp_rr": 14, "udp_rr": 16}
TOKEN_BYTES = 16
OMIT_S = 0.4
CPUS = sorted(os.sched_getaffinity(0))
PLACES = {"two": (CPUS[0], CPUS[-1]), "one": (CPUS[0], CPUS[0])}  # of the initiator and of the responder

MEAN = Figure("mean", "us", higher_is_better=False)
LATENCIES = [MEAN, Figure("p50", "us", higher_is_better=False), Figure("p99", "us", higher_is_better=False)]
COSTS = [
    Figure("initiator CPU", "us per transaction", higher_is_better=False),
    Figure("responder CPU", "us per transaction", higher_is_better=False),
]


def percentile_us(histogram: Histogram, q: float) -> float:
    """Geometric midpoint of the bucket that holds the q-th value."""
    left = q * histogram.count
    for index, count in zip(*histogram.sparse(), strict=True):
        left -= count
        if left <= 0:
            return bucket_upper(index) / 2 ** (1 / 512) / 1000
    return float("nan")


def latencies(histogram: Histogram) -> dict[str, float]:
    """Mean and percentiles."""
    return {
        "mean": histogram.sum / histogram.count / 1000,
        "p50": percentile_us(histogram, 0.5),
        "p99": percentile_us(histogram, 0.99),
    }


def run(engine: Engine, responder: OurResponder, seconds: float) -> dict[str, float]:
    """Run an engine to its end; return what it measured after the warm-up, and what that cost both ends.

    The responder's whole process is counted, as a peer's server is.
    """
    engine.arm()
    engine.start()
    first = engine.snapshot(engine.started_ns + int(OMIT_S * 1e9))
    before_s = responder.cpu_s()
    last = engine.snapshot(engine.started_ns + int((seconds + 60) * 1e9))
    responder_cpu_s = responder.cpu_s() - before_s
    engine.stop()
    if engine.error is not None:
        sys.exit(f"our engine failed: {engine.error}")
    latency = last.histograms["latency_ns"].minus(first.histograms["latency_ns"])
    transactions = last.counters["transactions"] - first.counters["transactions"]
    return {
        **latencies(latency),
        "rate": latency.count / seconds,
        "initiator CPU": (last.counters["cpu_ns"] - first.counters["cpu_ns"]) / 1000 / transactions,
        "responder CPU": responder_cpu_s * 1e6 / transactions,
    }


def our_rr(
    responder: OurResponder,
    seconds: float,
    *,
    wait: str,
    probe: str = "tcp_rr",
    connections: int = 1,
    kernel_stamps: bool = False,
    size: int | None = None,
    placement: str = "inherit",
) -> dict[str, float]:
    """Measure round trips with our engine."""
    size = size or BYTES[probe]
    engine = {"tcp_rr": TcpRr, "udp_rr": UdpRr}[probe](
        responder.session(probe),
        duration_ms=int((OMIT_S + seconds) * 1000),
        request_bytes=size,
        response_bytes=size,
        wait=wait,
        connections=connections,
        kernel_stamps=kernel_stamps,
        placement=placement,
    )
    figures = run(engine, responder, seconds)
    results = engine.results
    engine.close()
    if results is None:
        sys.exit("our session was cut")
    return figures


def our_crr(responder: OurResponder, seconds: float, *, placement: str = "inherit") -> dict[str, float]:
    """Measure connections with our engine."""
    engine = TcpCrr(
        responder.session("tcp_crr"),
        duration_ms=int((OMIT_S + seconds) * 1000),
        request_bytes=TOKEN_BYTES,
        response_bytes=TOKEN_BYTES,
        placement=placement,
    )
    figures = run(engine, responder, seconds)
    engine.close()
    return figures


def number(pattern: str, output: str) -> float:
    """Return the one number that a peer's report says of something."""
    match = re.search(pattern, output)
    if match is None:
        sys.exit(f"{pattern} is not in what the peer said:\n{output}")
    return float(match[1])


def sockperf_client(command: list[str], server_cpu_s: Callable[[], float], seconds: float) -> tuple[str, float, float]:
    """Run sockperf's client; return its output, and what part of a CPU both ends used after the warm-up."""
    output = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "Starting test" not in output:
            output += process.stdout.readline() or sys.exit(f"sockperf did not start:\n{output}")
        time.sleep(OMIT_S)
        before = time.monotonic(), process_cpu_s(process.pid), server_cpu_s()
        time.sleep((seconds - OMIT_S) * 0.8)
        after = time.monotonic(), process_cpu_s(process.pid), server_cpu_s()
        output += process.stdout.read()
    took_s, client_s, other_s = (now - then for now, then in zip(after, before, strict=True))
    return output, client_s / took_s, other_s / took_s


def sockperf_rr(seconds: float, *, wait: str, probe: str, place: str) -> dict[str, float]:
    """Measure with sockperf, told to do the same; its seconds include its warm-up."""
    here, there = PLACES[place]
    how = ["--nonblocked"] if wait == "spin" else []
    words = [*(["--tcp"] if probe == "tcp_rr" else []), "-i", "127.0.0.1", *how]
    with server(lambda port: pinned(there, ["sockperf", "server", *words, "-p", str(port)])) as (port, server_cpu_s):
        command = ["sockperf", "ping-pong", *words, "-p", str(port), "--full-rtt", "-m", str(BYTES[probe])]
        seconds += 1
        output, initiator, responder = sockperf_client(
            pinned(here, [*command, "-t", str(seconds)]), server_cpu_s, seconds
        )
    valid_s = number(r"\[Valid Duration\] RunTime=([\d.]+)", output)
    rate = number(r"\[Valid Duration\].*SentMessages=(\d+)", output) / valid_s
    return {
        "mean": number(r"Round trip is ([\d.]+) usec", output),
        "p50": number(r"percentile 50\.000 = +([\d.]+)", output),
        "p99": number(r"percentile 99\.000 = +([\d.]+)", output),
        "initiator CPU": initiator * 1e6 / rate,
        "responder CPU": responder * 1e6 / rate,
    }


def netperf(seconds: float, *, test: str, size: int) -> dict[str, float]:
    """Measure with netperf; its mean is that of the whole test."""
    with server(lambda port: ["netserver", "-D", "-4", "-L", "127.0.0.1", "-p", str(port)]) as (port, _):
        command = ["netperf", "-4", "-H", "127.0.0.1", "-p", str(port), "-l", str(seconds), "-t", test, "--"]
        output, _ = client([*command, "-r", f"{size},{size}", "-k", "MEAN_LATENCY"], seconds)
    return {"mean": number(r"MEAN_LATENCY=([\d.]+)", output)}


def plain_crr(seconds: float, *, place: str) -> dict[str, float]:
    """Measure with the plain loop; its CPU includes a warm-up like ours, and a start-up below a millisecond."""
    here, there = PLACES[place]
    if not LOOP.exists() or LOOP.stat().st_mtime < (HERE / "crr_loop.c").stat().st_mtime:
        LOOP.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(LOOP), str(HERE / "crr_loop.c")], check=True)
    loop = str(LOOP.resolve())
    with server(lambda port: pinned(there, [loop, str(port), str(TOKEN_BYTES)])) as (port, server_cpu_s):
        command = [loop, str(port), str(TOKEN_BYTES), str(int((OMIT_S + seconds) * 1000))]
        output, cpu_s = client(pinned(here, command), seconds)
    transactions, mean, p50, p99 = map(float, output.split())
    return {
        "mean": mean,
        "p50": p50,
        "p99": p99,
        "initiator CPU": cpu_s * 1e6 / transactions,
        "responder CPU": server_cpu_s() * 1e6 / transactions,
    }


def placed(
    place: str, ours: Callable[..., dict[str, float]], **how: str
) -> Callable[[OurResponder, float], dict[str, float]]:
    """Our side of a comparison, with both ends where `place` has them."""
    here, there = PLACES[place]

    def measure(responder: OurResponder, seconds: float) -> dict[str, float]:
        with responder.on(there):
            return ours(responder, seconds, placement=str(here), **how)

    return measure


def rr_case(probe: str, wait: str, place: str = "two") -> Case:
    """Describe round trips that wait in this way, beside sockperf."""
    return Case(
        f"{probe}-{wait}" if place == "two" else f"{probe}-{wait}-same",
        "sockperf",
        LATENCIES + COSTS,
        {"wait": wait, "bytes": str(BYTES[probe]), "cpus": place},
        placed(place, our_rr, wait=wait, probe=probe),
        lambda seconds: sockperf_rr(seconds, wait=wait, probe=probe, place=place),
    )


def netperf_case() -> Case:
    """Describe round trips beside netperf."""
    return Case(
        "tcp_rr-netperf",
        "netperf",
        [MEAN],
        {"wait": "block", "bytes": str(BYTES["tcp_rr"])},
        lambda responder, seconds: our_rr(responder, seconds, wait="block"),
        lambda seconds: netperf(seconds, test="TCP_RR", size=BYTES["tcp_rr"]),
    )


def crr_case(place: str) -> Case:
    """Describe a connection for each request, beside the plain loop."""
    return Case(
        "tcp_crr-loop" if place == "two" else "tcp_crr-loop-same",
        "cc",
        LATENCIES + COSTS,
        {"bytes": str(TOKEN_BYTES), "cpus": place},
        placed(place, our_crr),
        lambda seconds: plain_crr(seconds, place=place),
    )


def netperf_crr_case() -> Case:
    """Describe a connection for each request, beside netperf."""
    return Case(
        "tcp_crr-netperf",
        "netperf",
        [MEAN],
        {"bytes": str(TOKEN_BYTES)},
        our_crr,
        lambda seconds: netperf(seconds, test="TCP_CRR", size=TOKEN_BYTES),
    )


CASES = [
    *(rr_case(probe, wait) for probe in BYTES for wait in ("block", "spin")),
    *(rr_case(probe, "block", "one") for probe in BYTES),
    netperf_case(),
    crr_case("two"),
    crr_case("one"),
    netperf_crr_case(),
]
