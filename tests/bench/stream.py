"""tcp_stream beside iperf3.

128 KiB messages, kernel default buffers and congestion control, the first second left out, the receiver's figure.
"""

import json
import sys
from pathlib import Path

from pairs import Figure
from peers import Case, OurResponder, client, server

from cvmprobe.native.tcp_stream import TcpStream

__all__ = ["CASES"]

MESSAGE_BYTES = 128 * 1024
STREAM_OMIT_S = 1

STREAM_FIGURES = [
    Figure("goodput", "Gbit/s", higher_is_better=True),
    Figure("sender CPU", "us per MB", higher_is_better=False),
    Figure("receiver CPU", "us per MB", higher_is_better=False),
]


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


CASES = [stream_case(1), stream_case(4)]
