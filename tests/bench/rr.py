"""tcp_rr beside sockperf.

14 bytes each way (sockperf's least), the full round trip, the first 0.4 s left out; `spin` is sockperf's --nonblocked.
"""

import re
import sys

from pairs import Figure
from peers import Case, OurResponder, client, server

from cvmprobe.native.histogram import Histogram, bucket_upper
from cvmprobe.native.tcp_rr import TcpRr

__all__ = ["CASES"]

REQUEST_BYTES = 14
RR_OMIT_S = 0.4

RR_FIGURES = [
    Figure("mean", "us", higher_is_better=False),
    Figure("p50", "us", higher_is_better=False),
    Figure("p99", "us", higher_is_better=False),
    Figure("initiator CPU", "us per transaction", higher_is_better=False),
]


def percentile_us(histogram: Histogram, q: float) -> float:
    """Upper bound of the bucket that holds the q-th value (0.3 % wide)."""
    indices, counts = histogram.sparse()
    left = q * histogram.count
    for index, count in zip(indices, counts, strict=True):
        left -= count
        if left <= 0:
            return bucket_upper(index) / 1000
    return float("nan")


def our_rr(responder: OurResponder, seconds: float, *, wait: str) -> dict[str, float]:
    """Measure with our engine."""
    engine = TcpRr(
        **responder.session("tcp_rr"),
        duration_ms=int((RR_OMIT_S + seconds) * 1000),
        request_bytes=REQUEST_BYTES,
        response_bytes=REQUEST_BYTES,
        wait=wait,
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


def sockperf_rr(seconds: float, *, wait: str) -> dict[str, float]:
    """Measure with sockperf, told to do the same."""
    wait = ["--nonblocked"] if wait == "spin" else []
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


def rr_case(wait: str) -> Case:
    """Describe round trips that wait in this way."""
    return Case(
        f"tcp_rr-{wait}",
        "sockperf",
        RR_FIGURES,
        {"wait": wait, "bytes": str(REQUEST_BYTES)},
        lambda responder, seconds: our_rr(responder, seconds, wait=wait),
        lambda seconds: sockperf_rr(seconds, wait=wait),
    )


CASES = [rr_case("block"), rr_case("spin")]
