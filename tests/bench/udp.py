"""udp_stream beside iperf3 -u.

Datagrams of 1372 bytes as fast as they go, buffers of 212992 bytes at both ends, the first second left out, the
receiver's figure. `none` does what iperf3 does, a call for each datagram; `best` is what the probe does by default, and
iperf3 has nothing like it.
"""

import json

from pairs import Figure
from peers import Case, OurResponder, client, run_to_the_end, server

from cvmprobe.native.udp_stream import UdpStream

__all__ = ["CASES"]

DATAGRAM_BYTES = 1372
BUFFER_BYTES = 212_992
OMIT_S = 1

FIGURES = [
    Figure("goodput", "Gbit/s", higher_is_better=True),
    Figure("sender CPU", "us per MB sent", higher_is_better=False),
    Figure("receiver CPU", "us per MB received", higher_is_better=False),
]


def our_datagrams(responder: OurResponder, offload: str, seconds: float) -> dict[str, float]:
    """Measure with our engine."""
    engine = UdpStream(
        responder.session("udp_stream"),
        duration_ms=int((OMIT_S + seconds) * 1000),
        interval_ms=100,
        datagram_bytes=DATAGRAM_BYTES,
        offload=offload,
        sndbuf_bytes=BUFFER_BYTES,
        rcvbuf_bytes=BUFFER_BYTES,
    )
    last, results = run_to_the_end(engine, seconds)
    counted = sum(engine.bins["bytes"][OMIT_S * 10 : -1])
    engine.close()
    return {
        "goodput": counted * 8 / seconds / 1e9,
        "sender CPU": last.counters["cpu_ns"] * 1000 / last.counters["sent_bytes"],
        "receiver CPU": results["cpu_ns"] * 1000 / results["bytes"],
    }


def iperf3_datagrams(seconds: float) -> dict[str, float]:
    """Measure with iperf3, told to do the same; its CPU is held against the seconds left out, too."""
    with server(lambda port: ["iperf3", "-s", "-1", "-p", str(port)]) as (port, server_cpu_s):
        command = ["iperf3", "-u", "-c", "127.0.0.1", "-p", str(port), "-b", "0", "-l", str(DATAGRAM_BYTES), "-J"]
        command += ["-w", str(BUFFER_BYTES), "-O", str(OMIT_S), "-t", str(seconds)]
        output, cpu_s = client(command, seconds)
    report = json.loads(output)
    sent = sum(interval["sum"]["bytes"] for interval in report["intervals"])
    received = report["end"]["sum_received"]
    all_received = sent * received["bytes"] / report["end"]["sum_sent"]["bytes"]  # as if as much had come before
    return {
        "goodput": received["bits_per_second"] / 1e9,
        "sender CPU": cpu_s * 1e12 / sent,
        "receiver CPU": server_cpu_s() * 1e12 / all_received,
    }


def datagram_case(offload: str) -> Case:
    """Describe datagrams handed over in this way."""
    return Case(
        f"udp_stream-{offload}",
        "iperf3",
        FIGURES,
        {"offload": offload, "datagram_bytes": str(DATAGRAM_BYTES), "buffer_bytes": str(BUFFER_BYTES)},
        lambda responder, seconds: our_datagrams(responder, offload, seconds),
        iperf3_datagrams,
    )


CASES = [datagram_case("none"), datagram_case("best")]
