"""tcp_stream beside iperf3, forward and reverse, copy and discard.

128 KiB messages, kernel default buffers and congestion control, the first second left out, the receiver's figure.
Discard (MSG_TRUNC) is compared with --skip-rx-copy, which iperf3 has since 3.17.
"""

import functools
import json
import subprocess
from pathlib import Path

from pairs import Figure
from peers import Case, OurResponder, client, run_to_the_end, server

from cvmprobe.native.tcp_stream import TcpStream

__all__ = ["CASES", "iperf3_discards", "our_stream"]

MESSAGE_BYTES = 128 * 1024
STREAM_OMIT_S = 1
INTERVAL_MS = 100

STREAM_FIGURES = [
    Figure("goodput", "Gbit/s", higher_is_better=True),
    Figure("sender CPU", "us per MB", higher_is_better=False),
    Figure("receiver CPU", "us per MB", higher_is_better=False),
    Figure("CPU at both ends", "us per MB", higher_is_better=False),
]


def our_stream(
    responder: OurResponder, streams: int, seconds: float, *, reverse: bool = False, discard: bool = False
) -> dict[str, float]:
    """Measure with our engine."""
    engine = TcpStream(
        responder.session("tcp_stream"),
        duration_ms=int((STREAM_OMIT_S + seconds) * 1000),
        interval_ms=INTERVAL_MS,
        streams=streams,
        direction="reverse" if reverse else "forward",
        message_bytes=MESSAGE_BYTES,
        discard=discard,
    )
    last, results = run_to_the_end(engine, seconds)
    bins = engine.reverse_bins if reverse else engine.bins["bytes"]
    engine.close()
    initiator, other = last.counters["cpu_ns"], results["cpu_ns"]
    sender, receiver = (other, initiator) if reverse else (initiator, other)
    counted = sum(bins[STREAM_OMIT_S * 1000 // INTERVAL_MS : -1])
    return figures(counted * 8 / seconds, sender / 1e9, receiver / 1e9, sum(bins))


def iperf3_stream(streams: int, seconds: float, *, reverse: bool, discard: bool) -> dict[str, float]:
    """Measure with iperf3, told to do the same."""
    with server(lambda port: ["iperf3", "-s", "-1", "-p", str(port)]) as (port, server_cpu_s):
        command = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-P", str(streams), "-l", str(MESSAGE_BYTES), "-J"]
        command += ["-R"] * reverse + ["--skip-rx-copy"] * discard
        output, cpu_s = client([*command, "-O", str(STREAM_OMIT_S), "-t", str(seconds)], seconds)
    report = json.loads(output)
    moved = sum(interval["sum"]["bytes"] for interval in report["intervals"])
    sender, receiver = (server_cpu_s(), cpu_s) if reverse else (cpu_s, server_cpu_s())
    return figures(report["end"]["sum_received"]["bits_per_second"], sender, receiver, moved)


def figures(bit_per_s: float, sender_s: float, receiver_s: float, moved: int) -> dict[str, float]:
    """Return one run's figures, by the names in STREAM_FIGURES."""
    us_per_megabyte = 1e6 / (moved / 1e6)
    return {
        "goodput": bit_per_s / 1e9,
        "sender CPU": sender_s * us_per_megabyte,
        "receiver CPU": receiver_s * us_per_megabyte,
        "CPU at both ends": (sender_s + receiver_s) * us_per_megabyte,
    }


@functools.cache
def iperf3_discards() -> bool:
    """Whether the iperf3 that is installed, if one is, knows --skip-rx-copy."""
    try:
        said = subprocess.run(["iperf3", "--help"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return "--skip-rx-copy" in said.stdout + said.stderr


def stream_case(streams: int, *, reverse: bool = False, discard: bool = False) -> Case:
    """Describe a bulk transfer over so many connections."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    name = f"tcp_stream-{streams}" + "-reverse" * reverse + "-discard" * discard
    return Case(
        name,
        "iperf3",
        STREAM_FIGURES,
        {"streams": str(streams), "message_bytes": str(MESSAGE_BYTES), "congestion_control": congestion},
        lambda responder, seconds: our_stream(responder, streams, seconds, reverse=reverse, discard=discard),
        lambda seconds: iperf3_stream(streams, seconds, reverse=reverse, discard=discard),
    )


CASES = [stream_case(streams, reverse=reverse) for streams in (1, 4) for reverse in (False, True)]
if iperf3_discards():
    CASES += [stream_case(streams, discard=True) for streams in (1, 4)]
