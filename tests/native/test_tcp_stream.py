"""tcp_stream: equal to the byte on both ends, bounded in time and bytes, whatever the peer does."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.native.admitting import PLENTY, admit
from tests.native.leaks import assert_no_leak
from tests.native.sessions import INTERVAL_MS, STOP_BOUND_S, admitted, engine_to, watch
from tests.native.slow_session import SlowResponder, Terms, Ticket, count_bytes, slow_responder, until

from cvmprobe.errors import DeniedError, UnreachableError, UsageError, WireError

# -- exactly equal --


@pytest.mark.parametrize("streams", [1, 2, 3, 16, 64])
@pytest.mark.parametrize("message_bytes", [131072, 65521])
def test_windows_sender_and_receiver_agree_to_the_byte(responder, streams, message_bytes):
    engine = admitted(responder, "tcp_stream", streams=streams, message_bytes=message_bytes)
    *seen, total = watch(engine)
    sent = [shot.counters["sent_bytes"] for shot in seen]
    windows = [after - before for before, after in zip([0, *sent], sent, strict=False)]
    assert min(windows) >= 0
    assert sum(windows) == total.counters["sent_bytes"] == engine.results["bytes"] == sum(engine.bins["bytes"]) > 0
    assert total.histograms["send_call_ns"].count == total.counters["send_calls"]
    assert engine.error is None
    engine.close()


@pytest.mark.parametrize("message_bytes", [1, 7, 1461, 1 << 20])
@pytest.mark.parametrize("discard", [False, True], ids=["copy", "discard"])
def test_odd_messages_agree_to_the_byte(responder, message_bytes, discard):
    engine = admitted(responder, "tcp_stream", message_bytes=message_bytes, discard=discard)
    *_, total = watch(engine)
    assert total.counters["sent_bytes"] == engine.results["bytes"] == sum(engine.bins["bytes"]) > 0
    assert engine.facts["receive"] == ("discard" if discard else "copy")
    engine.close()


@pytest.mark.parametrize("streams", [1, 5])
@pytest.mark.parametrize("message_bytes", [997, 131072])
def test_a_slow_responder_counts_the_same(streams, message_bytes):
    ticket = Ticket()
    with slow_responder(ticket, count_bytes) as peer:
        engine = engine_to(peer.port, ticket, streams=streams, message_bytes=message_bytes, duration_ms=100)
        *_, total = watch(engine)
        assert peer.terms == Terms(
            sockets=streams,
            interval_ms=INTERVAL_MS,
            duration_ms=100,
            request_bytes=message_bytes,
            byte_limit=PLENTY,
        )
        assert total.counters["sent_bytes"] == engine.results["bytes"] == sum(engine.bins["bytes"]) > 0
        assert engine.results["cpu_ns"] == 3
        engine.close()


def test_messages_are_random_and_whole():
    ticket = Ticket()
    received = bytearray()

    def keep(peer: SlowResponder) -> bytes:
        while piece := peer.data[0].recv(1 << 16):
            received.extend(piece)
        return peer.ticket.results(peer.control_nonce, (len(received), 1, 1, 1, 1), [len(received), 0])

    with slow_responder(ticket, keep) as peer:
        engine = engine_to(peer.port, ticket, message_bytes=4096, duration_ms=50, max_bytes=10 * 4096)
        watch(engine)
        engine.close()
    assert bytes(received) == bytes(received[:4096]) * 10
    assert len(set(received[:4096])) > 200


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("max_bytes", [1, 131071, 1_000_003])
def test_the_byte_cap_binds_exactly(responder, streams, max_bytes):
    engine = admitted(responder, "tcp_stream", streams=streams, max_bytes=max_bytes, duration_ms=20_000)
    *_, total = watch(engine, interval_ms=20_000)
    assert total.counters["sent_bytes"] == engine.results["bytes"] == max_bytes
    assert total.t_ns - engine.started_ns < 20_000_000_000
    engine.close()


def test_no_allowance_sends_nothing(responder):
    engine = admitted(responder, "tcp_stream", max_bytes=0)
    *_, total = watch(engine)
    assert total.counters["sent_bytes"] == engine.results["bytes"] == 0
    engine.close()


def test_it_ends_at_its_deadline(responder):
    engine = admitted(responder, "tcp_stream", duration_ms=150, streams=2)
    *_, total = watch(engine)
    assert total.finished
    results = engine.results
    assert results["last_ns"] >= results["first_ns"] >= engine.started_ns
    assert sum(engine.bins["bytes"][:-1]) > 0
    assert total.t_ns - engine.started_ns >= 150_000_000
    engine.close()


def test_it_tells_what_the_kernel_uses(responder):
    engine = admitted(responder, "tcp_stream")
    *_, total = watch(engine)
    facts = engine.facts
    assert facts["congestion_control"] in _available_congestion_controls()
    assert int(facts["rtt_ns"]) > 0
    assert int(facts["min_rtt_ns"]) > 0
    assert int(facts["cwnd_segments"]) > 0
    assert int(facts["delivery_bytes_per_s"]) > 0
    assert total.counters["retransmitted_segments"] >= 0
    assert total.counters["cpu_ns"] > 0
    engine.close()
    assert "rtt_ns" not in engine.facts


def _available_congestion_controls() -> list[str]:
    return Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="ascii").split()


# -- peers that do not do their part --


def never(peer: SlowResponder) -> None:
    peer.over.wait()


def test_stop_acts_beside_a_silent_peer():
    ticket = Ticket()
    with slow_responder(ticket, never) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=60_000, streams=3)
        engine.arm()
        engine.start()
        until(lambda: blocked(engine), "all buffers are full")
        begin = time.monotonic()
        engine.stop()
        assert time.monotonic() - begin < STOP_BOUND_S
        assert engine.error is None
        assert engine.results is None
        assert engine.bins == {}
        engine.close()


def blocked(engine) -> bool:
    """Whether nothing was sent for 100 ms."""
    before = engine.snapshot().counters["sent_bytes"]
    after = engine.snapshot(time.monotonic_ns() + 100_000_000).counters["sent_bytes"]
    return before == after > 0


def test_without_a_drain_there_are_no_results_and_no_error():
    ticket = Ticket()
    with slow_responder(ticket, never) as peer:
        engine = engine_to(peer.port, ticket, duration_ms=50)
        *_, total = watch(engine)
        assert total.finished
        assert engine.results is None
        assert engine.error is None
        engine.close()


STOPPED_PEER = """
import sys
from cvmprobe.native.responder import Responder
responder = Responder("127.0.0.1")
session_id, key = (bytes.fromhex(word) for word in sys.argv[1:])
responder.admit(session_id, key, "tcp_stream", valid_for_ms=60_000, max_bytes=1 << 40)
print(responder.port, flush=True)
sys.stdin.read()
"""


def test_stop_acts_beside_a_stopped_process():
    ticket = Ticket()
    arguments = [sys.executable, "-c", STOPPED_PEER, ticket.session_id.hex(), ticket.key.hex()]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as peer:
        engine = engine_to(int(peer.stdout.readline()), ticket, duration_ms=60_000)
        engine.arm()
        os.kill(peer.pid, signal.SIGSTOP)
        try:
            engine.start()
            until(lambda: blocked(engine), "all buffers are full")
            begin = time.monotonic()
            engine.stop()
            assert time.monotonic() - begin < STOP_BOUND_S
            engine.close()
        finally:
            os.kill(peer.pid, signal.SIGCONT)
            peer.stdin.close()
    assert peer.returncode == 0


def test_a_peer_that_goes_away_is_an_error(responder):
    ticket = admit(responder, Ticket())
    engine = engine_to(responder.port, ticket, duration_ms=60_000, streams=2)
    engine.arm()
    engine.start()
    responder.revoke(ticket.session_id)
    last = engine.snapshot(engine.started_ns + 30_000_000_000)
    assert last.finished
    assert engine.error is not None
    assert engine.results is None
    engine.close()


@pytest.mark.parametrize("fault", ["mac", "bins", "nonce", "short"])
def test_false_results_are_not_taken(fault):
    ticket = Ticket()

    def lie(peer: SlowResponder) -> bytes:
        honest = count_bytes(peer)
        bins = [1, 2] if fault == "bins" else [0] * 5
        nonce = bytes(16) if fault == "nonce" else peer.control_nonce
        key = os.urandom(32) if fault == "mac" else ticket.key
        lied = Ticket(session_id=ticket.session_id, key=key).results(nonce, (1, 2, 3, 4, 5), bins)
        return honest[:100] if fault == "short" else lied

    with slow_responder(ticket, lie) as peer:
        engine = engine_to(peer.port, ticket)
        engine.arm()
        engine.start()
        until(lambda: len(peer.sockets) == 2 and not peer._thread.is_alive(), "the peer has lied")
        for sock in peer.sockets:
            sock.close()
        last = engine.snapshot(engine.started_ns + 30_000_000_000)
        assert last.finished
        engine.stop()
        assert engine.results is None
        assert engine.error is not None
        engine.close()


def test_nobody_there_is_named():
    with pytest.raises(UnreachableError, match=r"peer 127\.0\.0\.1 port 1: nobody answers"):
        engine_to(1, Ticket()).arm()


def test_a_name_without_an_address_is_named():
    with pytest.raises(UnreachableError, match=r"no-such-host\.invalid"):
        engine_to(1, Ticket(), host="no-such-host.invalid").arm()


def test_not_being_admitted_is_named(responder):
    with pytest.raises(DeniedError, match="without a word"):
        engine_to(responder.port, Ticket()).arm()


def test_a_peer_without_the_key_is_named():
    ticket = Ticket()
    with slow_responder(ticket, never) as peer:
        peer.ticket = Forger(ticket.probe, ticket.session_id, ticket.key)
        with pytest.raises(WireError, match="does not know the session's key"):
            engine_to(peer.port, ticket).arm()


class Forger(Ticket):
    def reply(self, hello: bytes) -> bytes:
        honest = super().reply(hello)
        return honest[:-1] + bytes([honest[-1] ^ 1])


def test_a_late_admission_is_waited_for(responder):
    ticket = Ticket()
    engine = engine_to(responder.port, ticket, duration_ms=50)
    arming = threading.Thread(target=engine.arm)
    arming.start()
    until(lambda: responder.counters()["unknown"] > 2, "it has tried")
    admit(responder, ticket)
    arming.join()
    assert engine.state == "armed"
    engine.close()


def test_dialing_can_be_given_up(responder):
    asked = []

    def giving_up():
        asked.append(1)
        return len(asked) == 2

    with pytest.raises(WireError, match="stopped while dialing"):
        engine_to(responder.port, Ticket(), giving_up=giving_up).arm()
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"streams": 0}, "0 streams"),
        ({"streams": 65}, "65 streams"),
        ({"message_bytes": 0}, "messages of 0"),
        ({"message_bytes": (1 << 20) + 1}, "messages of 1048577"),
        ({"duration_ms": 0}, "terms"),
        ({"duration_ms": 24 * 3600 * 1000 + 1}, "terms"),
        ({"interval_ms": 0}, "terms"),
    ],
)
def test_what_no_responder_keeps_is_refused_at_once(change, named):
    with pytest.raises(UsageError, match=named):
        engine_to(1, Ticket(), **change)


@pytest.mark.parametrize(
    ("ticket", "named"), [(Ticket(session_id=b"x"), "session id"), (Ticket(key=b"x"), "key")], ids=["id", "key"]
)
def test_a_ticket_of_a_wrong_size_is_refused_at_once(ticket, named):
    with pytest.raises(UsageError, match=named):
        engine_to(1, ticket)


def test_nothing_of_a_stream_stays(responder):
    def live():
        engine = admitted(responder, "tcp_stream", streams=2, duration_ms=10)
        watch(engine)
        engine.close()
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(live)


@pytest.mark.parametrize("until_state", ["idle", "armed", "running"])
def test_nothing_of_a_dropped_stream_stays(responder, until_state):
    def drop():
        engine = admitted(responder, "tcp_stream", streams=2, duration_ms=60_000)
        if until_state != "idle":
            engine.arm()
        if until_state == "running":
            engine.start()
        del engine
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(drop)
