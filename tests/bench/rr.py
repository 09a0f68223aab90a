"""tcp_rr and udp_rr beside sockperf, tcp_rr and tcp_crr beside netperf, tcp_crr beside a plain C loop.

Round trips: 14 bytes each way (sockperf's least; UDP 16, ours), the full round trip, the first 0.4 s left out; `spin`
is sockperf's --nonblocked. Connections: 16 bytes each way (our token's least); crr_loop.c is compiled here. A
percentile of ours is the geometric midpoint of its bucket (0.27 % wide).
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pairs import Figure
from peers import Case, OurResponder, client, server

from cvmprobe.native.engine import Engine, Snapshot
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


def run(engine: Engine, seconds: float) -> tuple[Snapshot, Histogram]:
    """Run an engine to its end; return its totals, and its latencies after the warm-up."""
    engine.arm()
    engine.start()
    first = engine.snapshot(engine.started_ns + int(OMIT_S * 1e9))
    last = engine.snapshot(engine.started_ns + int((seconds + 60) * 1e9))
    engine.stop()
    if engine.error is not None:
        sys.exit(f"our engine failed: {engine.error}")
    return last, last.histograms["latency_ns"].minus(first.histograms["latency_ns"])


def our_rr(
    responder: OurResponder,
    seconds: float,
    *,
    wait: str,
    probe: str = "tcp_rr",
    connections: int = 1,
    kernel_stamps: bool = False,
    size: int | None = None,
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
    )
    last, latency = run(engine, seconds)
    results = engine.results
    engine.close()
    if results is None:
        sys.exit("our session was cut")
    transactions = last.counters["transactions"]
    return {
        **latencies(latency),
        "rate": latency.count / seconds,
        "initiator CPU": last.counters["cpu_ns"] / 1000 / transactions,
        "responder CPU": results["cpu_ns"] / 1000 / transactions,
    }


def our_crr(responder: OurResponder, seconds: float) -> dict[str, float]:
    """Measure connections with our engine. The responder's own thread answers, so its whole process is counted."""
    before_s = responder.cpu_s()
    engine = TcpCrr(
        responder.session("tcp_crr"),
        duration_ms=int((OMIT_S + seconds) * 1000),
        request_bytes=TOKEN_BYTES,
        response_bytes=TOKEN_BYTES,
    )
    last, latency = run(engine, seconds)
    engine.close()
    transactions = last.counters["transactions"]
    return {
        **latencies(latency),
        "initiator CPU": last.counters["cpu_ns"] / 1000 / transactions,
        "responder CPU": (responder.cpu_s() - before_s) * 1e6 / transactions,
    }


def number(pattern: str, output: str) -> float:
    """Return the one number that a peer's report says of something."""
    match = re.search(pattern, output)
    if match is None:
        sys.exit(f"{pattern} is not in what the peer said:\n{output}")
    return float(match[1])


def sockperf_rr(seconds: float, *, wait: str, probe: str) -> dict[str, float]:
    """Measure with sockperf, told to do the same."""
    how = ["--nonblocked"] if wait == "spin" else []
    words = [*(["--tcp"] if probe == "tcp_rr" else []), "-i", "127.0.0.1", *how]
    with server(lambda port: ["sockperf", "server", *words, "-p", str(port)]) as (port, server_cpu_s):
        command = ["sockperf", "ping-pong", *words, "-p", str(port), "--full-rtt", "-m", str(BYTES[probe])]
        output, cpu_s = client([*command, "-t", str(seconds)], seconds)
    transactions = number(r"\[Total Run\].*SentMessages=(\d+)", output)
    return {
        "mean": number(r"Round trip is ([\d.]+) usec", output),
        "p50": number(r"percentile 50\.000 = +([\d.]+)", output),
        "p99": number(r"percentile 99\.000 = +([\d.]+)", output),
        "initiator CPU": cpu_s * 1e6 / transactions,
        "responder CPU": server_cpu_s[0] * 1e6 / transactions,
    }


def netperf(seconds: float, *, test: str, size: int) -> dict[str, float]:
    """Measure with netperf; its mean is that of the whole test."""
    with server(lambda port: ["netserver", "-D", "-4", "-L", "127.0.0.1", "-p", str(port)]) as (port, _):
        command = ["netperf", "-4", "-H", "127.0.0.1", "-p", str(port), "-l", str(seconds), "-t", test, "--"]
        output, _ = client([*command, "-r", f"{size},{size}", "-k", "MEAN_LATENCY"], seconds)
    return {"mean": number(r"MEAN_LATENCY=([\d.]+)", output)}


def plain_crr(seconds: float) -> dict[str, float]:
    """Measure with the plain loop."""
    if not LOOP.exists() or LOOP.stat().st_mtime < (HERE / "crr_loop.c").stat().st_mtime:
        LOOP.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(LOOP), str(HERE / "crr_loop.c")], check=True)
    with server(lambda port: [str(LOOP.resolve()), str(port), str(TOKEN_BYTES)]) as (port, server_cpu_s):
        command = [str(LOOP.resolve()), str(port), str(TOKEN_BYTES), str(int((OMIT_S + seconds) * 1000))]
        output, cpu_s = client(command, seconds)
    transactions, mean, p50, p99 = map(float, output.split())
    return {
        "mean": mean,
        "p50": p50,
        "p99": p99,
        "initiator CPU": cpu_s * 1e6 / transactions,
        "responder CPU": server_cpu_s[0] * 1e6 / transactions,
    }


def rr_case(probe: str, wait: str) -> Case:
    """Describe round trips that wait in this way, beside sockperf."""
    return Case(
        f"{probe}-{wait}",
        "sockperf",
        LATENCIES + COSTS,
        {"wait": wait, "bytes": str(BYTES[probe])},
        lambda responder, seconds: our_rr(responder, seconds, wait=wait, probe=probe),
        lambda seconds: sockperf_rr(seconds, wait=wait, probe=probe),
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


def crr_case(name: str, peer: str, figures: list[Figure], theirs: Callable[[float], dict[str, float]]) -> Case:
    """Describe a connection for each request."""
    return Case(name, peer, figures, {"bytes": str(TOKEN_BYTES)}, our_crr, theirs)


CASES = [
    *(rr_case(probe, wait) for probe in BYTES for wait in ("block", "spin")),
    netperf_case(),
    crr_case("tcp_crr-loop", "cc", LATENCIES + COSTS, plain_crr),
    crr_case("tcp_crr-netperf", "netperf", [MEAN], lambda s: netperf(s, test="TCP_CRR", size=TOKEN_BYTES)),
]
