"""udp_stream: every datagram accounted for at both ends, bounded in time and bytes, whatever the peer does."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.native.admitting import admit, counted
from tests.native.leaks import assert_no_leak
from tests.native.sessions import STOP_BOUND_S, admitted, engine_to
from tests.native.sessions import watch as run_to_the_end
from tests.native.slow_session import UNKNOWN, SlowInitiator, Terms, Ticket, until
from tests.native.test_udp_sequence import SlowArrivals

from cvmprobe.errors import DeniedError, UnreachableError, UsageError

DATAGRAMS_OF_A_PACKET = 64  # with segmentation offload, at the most
DUPLICATES, REORDERED, EXTENT, JITTER, SOCKET_DROPS = range(10, 15)  # among the results
SENT_BYTES, SENT_DATAGRAMS = 6, 7


def watch(engine) -> list:
    seen = run_to_the_end(engine)
    assert engine.error is None
    return seen


def flows_of(engine, total) -> list[tuple[int, int, dict, list[int]]]:
    """Of each direction: bytes and datagrams sent, what was received, and the datagrams of all its intervals."""
    results, counters = engine.results, total.counters
    found = []
    if "sent_datagrams" in counters:
        found.append((counters["sent_bytes"], counters["sent_datagrams"], results, engine.bins["operations"]))
    if engine.received is not None:
        sent = results["sent_bytes"], results["sent_operations"]
        found.append((*sent, engine.received, engine.received_bins["operations"]))
    return found


def loopback_drops() -> int:
    """Packets that a CPU's own queue had no room for, all over this machine: the network that loopback has."""
    return sum(int(line.split()[1], 16) for line in Path("/proc/net/softnet_stat").read_text().splitlines())


# -- every datagram --


@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
@pytest.mark.parametrize("offload", ["best", "gso", "mmsg", "none"])
@pytest.mark.parametrize(("streams", "datagram_bytes"), [(1, 1372), (2, 16), (3, 8192), (1, 65507)])
def test_what_is_sent_is_received_or_lost_at_the_socket(responder, direction, offload, streams, datagram_bytes):
    engine = admitted(
        responder,
        "udp_stream",
        direction=direction,
        offload=offload,
        streams=streams,
        datagram_bytes=datagram_bytes,
        duration_ms=100,
    )
    before = loopback_drops()
    *_, total = watch(engine)
    flows = flows_of(engine, total)
    assert len(flows) == (2 if direction == "both" else 1)
    for sent_bytes, sent, received, bins in flows:
        assert sent_bytes == sent * datagram_bytes > 0
        assert received["bytes"] == received["operations"] * datagram_bytes
        assert received["operations"] == sum(bins) > 0
        assert received["duplicates"] == received["reordered"] == received["reorder_extent"] == 0
        lost = sent - received["operations"]
        assert 0 <= received["socket_drops"] <= lost or lost == 0
        assert lost - received["socket_drops"] <= DATAGRAMS_OF_A_PACKET * (loopback_drops() - before)
    engine.close()


@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
def test_a_modest_rate_loses_nothing_and_is_kept(responder, direction):
    engine = admitted(
        responder, "udp_stream", direction=direction, rate_bytes_per_s=1_372_000, streams=2, duration_ms=300
    )
    *seen, total = watch(engine)
    for _, sent, received, bins in flows_of(engine, total):
        assert received["operations"] == sent == sum(bins)
        assert received["socket_drops"] == 0
        assert sent <= 2 * 300 + 2
        assert received["jitter_ns"] < 300_000_000
    name = "reverse_receiver_datagrams"
    if direction != "forward":
        counts = [shot.counters[name] for shot in seen]
        assert counts == sorted(counts)
        assert total.counters[name] == engine.received["operations"]
    engine.close()


def test_no_burst_of_a_rate_is_longer_than_a_millisecond(responder):
    engine = admitted(responder, "udp_stream", rate_bytes_per_s=10 * 1_372_000, duration_ms=100)
    *_, total = watch(engine)
    assert total.counters["send_calls"] * 10 >= total.counters["sent_datagrams"] > 0
    engine.close()


@pytest.mark.parametrize("offload", ["gso", "mmsg", "none"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_named_way_of_handing_over_is_used_at_both_ends(responder, offload, direction):
    engine = admitted(responder, "udp_stream", offload=offload, direction=direction)
    *_, total = watch(engine)
    facts = engine.facts
    here, there = ("receive", "send") if direction == "reverse" else ("send", "receive")
    assert facts[f"{here}_offload"] == facts[f"responder_{there}_offload"] == offload
    if direction == "forward":
        many = total.counters["sent_datagrams"] > total.counters["send_calls"]
        assert many is (offload != "none")
    engine.close()


def test_the_path_is_told(responder):
    engine = admitted(responder, "udp_stream", datagram_bytes=65507, max_bytes=1 << 20)
    watch(engine)
    assert int(engine.facts["path_mtu_bytes"]) >= 1280
    assert engine.facts["fragments"] == "1"
    engine.close()
    assert "path_mtu_bytes" not in engine.facts


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("max_bytes", [999, 1000, 500_123])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_byte_cap_binds(responder, streams, max_bytes, direction):
    engine = admitted(
        responder, "udp_stream", streams=streams, max_bytes=max_bytes, direction=direction, datagram_bytes=1000
    )
    *_, total = watch(engine)
    sent = engine.results["sent_bytes"] if direction == "reverse" else total.counters["sent_bytes"]
    assert sent <= max_bytes
    assert sent >= max_bytes - streams * 1000 * 2
    engine.close()


def test_both_directions_share_the_cap(responder):
    engine = admitted(responder, "udp_stream", max_bytes=20_000, direction="both", datagram_bytes=1000)
    *_, total = watch(engine)
    assert total.counters["sent_bytes"] == engine.results["sent_bytes"] == 10_000
    engine.close()


def test_no_allowance_sends_nothing(responder):
    engine = admitted(responder, "udp_stream", max_bytes=0)
    *_, total = watch(engine)
    assert total.counters["sent_bytes"] == engine.results["bytes"] == 0
    engine.close()


# -- the serving side, against a flow of ours --


def results_after(responder, datagrams, **terms) -> tuple[int, ...]:
    """Send these to a receiving responder; return its results. None is foreign, a number is a datagram's.

    The receiving socket has room for all of them, so that none is lost however late its thread comes.
    """
    asked = Terms(**{"duration_ms": 1000, "request_bytes": 100, "rcvbuf_bytes": 200_000, **terms})
    with SlowInitiator(responder.port, admit(responder, Ticket("udp_stream")), asked) as initiator:
        for number in datagrams:
            initiator.data[0].send(b"x" * 100 if number is None else initiator.datagram(1, number, 100))
        counts, bins = initiator.drain()
    assert sum(bins) == counts[0]
    return counts


def test_an_empty_flow_is_nothing(responder):
    counts = results_after(responder, [])
    assert counts[:2] == (0, 0)
    assert counts[2] == UNKNOWN
    assert counts[DUPLICATES] == counts[SOCKET_DROPS] == 0


@pytest.mark.parametrize("offload", [0, 1, 2, 3])
def test_a_disturbed_flow_is_counted_as_an_oracle_counts_it(responder, offload):
    chance = random.Random(offload)
    flow = [number for number in range(300) if chance.random() > 0.1]
    for _ in range(30):
        flow.insert(chance.randrange(len(flow)), chance.choice(flow))
        flow.insert(chance.randrange(len(flow)), flow.pop(chance.randrange(len(flow))))
        flow.insert(chance.randrange(len(flow)), None)
    slow = SlowArrivals()
    for number in flow:
        if number is not None:
            slow.take(number)
    counts = results_after(responder, flow, offload=offload)
    assert counts[:2] == (slow.counts["unique"] * 100, slow.counts["unique"])
    assert counts[DUPLICATES] == slow.counts["duplicates"] > 0
    assert counts[REORDERED] == slow.counts["reordered"] > 0
    assert counts[EXTENT] == slow.counts["reorder_extent"] > 0
    assert counts[SOCKET_DROPS] == 0


def test_a_responder_sends_when_told_and_stops_when_the_initiator_ends(responder):
    asked = Terms(direction=1, duration_ms=60_000, request_bytes=100, rate_bytes_per_s=100_000)
    with SlowInitiator(responder.port, admit(responder, Ticket("udp_stream")), asked) as initiator:
        sock = initiator.data[0]
        sock.send(b"not of this session")
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(200)
        sock.settimeout(30)
        sock.send(initiator.datagram(1, 0))
        got = [sock.recv(200) for _ in range(20)]
        assert [data[:4] + data[8:16] for data in got] == [
            initiator.datagram(1, number)[:4] + initiator.datagram(1, number)[8:16] for number in range(20)
        ]
        assert len({data[16:] for data in got}) == 1
        assert len(set(got[0][16:])) > 20  # random
        counts, _ = initiator.drain()
        sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while data := sock.recv(200):
                got.append(data)
    assert counts[SENT_DATAGRAMS] == len(got)
    assert counts[SENT_BYTES] == 100 * len(got)


@pytest.mark.parametrize("direction", [0, 1])
def test_a_session_that_is_never_begun_ends(responder, direction):
    asked = Terms(direction=direction, duration_ms=1000, request_bytes=100)
    with SlowInitiator(responder.port, admit(responder, Ticket("udp_stream")), asked) as initiator:
        assert initiator.drain()[0][:2] == (0, 0)
    counted(responder, "completed", 1)


def test_a_session_past_its_cap_is_cut(responder):
    ticket = admit(responder, Ticket("udp_stream"), max_bytes=950)
    with SlowInitiator(responder.port, ticket, Terms(request_bytes=100)) as initiator:
        for number in range(10):
            initiator.data[0].send(initiator.datagram(1, number, 100))
        assert initiator.read_results() is None
    counted(responder, "cut", 1)


# -- ends --


@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
def test_a_stop_acts_at_once(responder, direction):
    engine = admitted(responder, "udp_stream", direction=direction, duration_ms=60_000, streams=2)
    engine.arm()
    engine.start()
    engine.snapshot(engine.started_ns + 50_000_000)
    begin = time.monotonic()
    engine.stop()
    assert time.monotonic() - begin < STOP_BOUND_S
    assert engine.error is None
    assert engine.results is None
    engine.close()
    counted(responder, "cut", 1)


PEER = """
import sys
from cvmprobe.native.responder import Responder
responder = Responder("127.0.0.1")
session_id, key = (bytes.fromhex(word) for word in sys.argv[1:])
responder.admit(session_id, key, "udp_stream", valid_for_ms=60_000, max_bytes=1 << 40)
print(responder.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def peer():
    """A responder in a process of its own: (process, port, ticket)."""
    ticket = Ticket("udp_stream")
    arguments = [sys.executable, "-c", PEER, ticket.session_id.hex(), ticket.key.hex()]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, int(process.stdout.readline()), ticket
        process.kill()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_stop_acts_beside_a_stopped_process(peer, direction):
    process, port, ticket = peer
    engine = engine_to(port, ticket, direction=direction, duration_ms=60_000)
    engine.arm()
    engine.start()
    engine.snapshot(engine.started_ns + 50_000_000)
    os.kill(process.pid, signal.SIGSTOP)
    begin = time.monotonic()
    engine.stop()
    assert time.monotonic() - begin < STOP_BOUND_S
    assert engine.error is None
    engine.close()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_peer_that_dies_is_an_error(peer, direction):
    process, port, ticket = peer
    engine = engine_to(port, ticket, direction=direction, duration_ms=60_000)
    engine.arm()
    engine.start()
    engine.snapshot(engine.started_ns + 50_000_000)
    process.kill()
    until(lambda: engine.error is not None, "the engine sees it")
    engine.stop()
    assert engine.results is None
    if direction == "forward":
        assert engine.snapshot().counters["icmp_errors"] >= 0
    engine.close()


def test_who_is_not_admitted_is_denied(responder):
    with pytest.raises(DeniedError):
        engine_to(responder.port, Ticket("udp_stream")).arm()


def test_nobody_there_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError):
        engine_to(port, Ticket("udp_stream")).arm()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"streams": 0}, "0 streams"),
        ({"streams": 65}, "65 streams"),
        ({"streams": 33, "direction": "both"}, "1 to 32"),
        ({"datagram_bytes": 15}, "datagrams of 15"),
        ({"datagram_bytes": 65508}, "datagrams of 65508"),
        ({"direction": "up"}, "'up'"),
        ({"offload": "magic"}, "'magic'"),
        ({"dscp": 64}, "dscp 64"),
        ({"max_bytes": 0, "direction": "reverse"}, "0 bytes"),
        ({"duration_ms": 0}, "terms"),
        ({"interval_ms": 0}, "terms"),
    ],
)
def test_what_no_responder_keeps_is_refused_at_once(change, named):
    with pytest.raises(UsageError, match=named):
        engine_to(1, Ticket("udp_stream"), **change)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_nothing_of_a_stream_stays(responder, direction):
    def live():
        engine = admitted(
            responder, "udp_stream", streams=2, duration_ms=10, direction=direction, rate_bytes_per_s=1_000_000
        )
        watch(engine)
        engine.close()
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(live, repeats=20)


@pytest.mark.parametrize("until_state", ["idle", "armed", "running"])
def test_nothing_of_a_dropped_stream_stays(responder, until_state):
    def drop():
        engine = admitted(responder, "udp_stream", streams=2, duration_ms=60_000, direction="both")
        if until_state != "idle":
            engine.arm()
        if until_state == "running":
            engine.start()
        del engine
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(drop, repeats=20)
