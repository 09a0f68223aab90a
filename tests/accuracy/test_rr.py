"""tcp_rr against a reflector whose delays are known one by one, and tcp_crr against SYNs that were dropped and counted.

Stated bound: a stamp is at the kernel's call and not on the wire, so a latency is never below the reflector's own
time between receive and send, and the way there and back comes on top. A percentile is off by half a bucket at the
most (0.14 %).
"""

import math
import struct
import time

import pytest
from tests.accuracy.ends import begin, measure, serving
from tests.accuracy.namespaces import dropping
from tests.native.sessions import engine_to
from tests.native.slow_session import Ticket, read_exactly, slow_responder

from cvmprobe.model.window import Flag, Probe
from cvmprobe.native.histogram import bucket_upper

DELAYS_S = (0.001, 0.002, 0.005, 0.0005, 0.010)
HALF_BUCKET = 2 ** (1 / 512)
SYN = "tcp flags & (syn | ack) == syn"


class Reflector:
    """Answers one byte after the next of the known delays, and keeps how long each request really was here."""

    def __init__(self) -> None:
        self.held_ns: list[int] = []

    def serve(self, peer) -> bytes:
        sock = peer.data[0]
        while read_exactly(sock, 1):
            came = time.monotonic_ns()
            time.sleep(DELAYS_S[len(self.held_ns) % len(DELAYS_S)])
            self.held_ns.append(time.monotonic_ns() - came)
            sock.sendall(b"x")
        served = len(self.held_ns)
        return peer.ticket.results(peer.control_nonce, (2 * served, served, 1, 2, 3), [])


def midpoint(histogram, q) -> float:
    """Percentile as the analysis has it: the geometric midpoint of its bucket."""
    left = math.ceil(q * histogram.count)
    for index, count in zip(*histogram.sparse(), strict=True):
        left -= count
        if left <= 0:
            return bucket_upper(index) / HALF_BUCKET
    raise AssertionError("an empty histogram")


@pytest.mark.parametrize("wait", ["block", "epoll", "spin"])
def test_each_round_trip_is_what_the_reflector_held_it_and_a_way(wait):
    ticket, reflector = Ticket("tcp_rr"), Reflector()
    with slow_responder(ticket, reflector.serve) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=1500, wait=wait, raw_samples=True)
        engine.arm()
        engine.start()
        total = engine.snapshot(engine.started_ns + 30_000_000_000)
        engine.stop()
        rows = [took for _, took, *_ in struct.iter_unpack("<QIBBH", engine.drain_samples()[0])]
        engine.close()
    assert len(rows) == len(reflector.held_ns) == total.counters["transactions"] > 100
    ways = sorted(took - held for took, held in zip(rows, reflector.held_ns, strict=True))
    assert ways[0] >= 0, "no round trip is shorter than what the reflector held it"
    assert ways[len(ways) // 2] < 0.5 * min(DELAYS_S) * 1e9, "nor, as a rule, much longer"
    exact = sorted(rows)
    for q in (0.1, 0.5, 0.9, 0.99):
        truth = exact[math.ceil(q * len(exact)) - 1]
        assert (
            truth / HALF_BUCKET * 0.9999 <= midpoint(total.histograms["latency_ns"], q) <= truth * HALF_BUCKET * 1.0001
        )


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("connections", "depth", "wait"), [(1, 1, "block"), (64, 2, "epoll")])
def test_both_ends_agree_over_a_routed_path(net, family, connections, depth, wait):
    told = measure(net, Probe.TCP_RR, family=family, duration_ms=1000, connections=connections, depth=depth, wait=wait)
    assert told.totals["transactions"] == told.totals["receiver_transactions"] > 0
    assert sum(window.counters["transactions"] for window in told.windows) == told.totals["transactions"]
    assert not any(Flag.CUT in window.flags for window in told.windows)


@pytest.mark.parametrize("family", [4, 6])
def test_connections_agree_over_a_routed_path(net, family):
    told = measure(net, Probe.TCP_CRR, family=family, duration_ms=1000)
    assert told.totals["transactions"] == told.totals["receiver_transactions"] > 0
    assert told.totals["syn_retransmits"] == told.totals["timeouts"] == 0


def test_every_dropped_syn_is_one_that_was_sent_again(net):
    """A tenth of the SYNs is dropped in the middle; its counter is the truth. A SYN is sent again after a second."""
    with serving(net.b) as peer, begin(net, net.a, peer, Probe.TCP_CRR, duration_ms=6000, interval_ms=100) as running:
        windows = running.windows()
        while next(windows).counters["transactions"] == 0:
            pass  # the session stands; from here on there are its own connections only
        with dropping(net, net.b, 100, SYN) as drop:
            told = running.told()
            dropped, _ = drop.counted()
    assert not told.error
    assert told.totals["syn_retransmits"] == dropped > 0
    assert told.totals["timeouts"] == pytest.approx(dropped, abs=dropped / 2), "some are dropped twice"
    assert told.totals["transactions"] == told.totals["receiver_transactions"]
