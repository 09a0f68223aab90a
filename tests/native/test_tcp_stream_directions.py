"""tcp_stream in every direction: who receives counts, on its own clock, and both ends come to the same."""

import threading
import time

import pytest
from tests.native.admitting import PLENTY, admit
from tests.native.leaks import assert_no_leak
from tests.native.sessions import INTERVAL_MS, STOP_BOUND_S, admitted, engine_to, watch
from tests.native.slow_session import SlowInitiator, SlowResponder, Terms, Ticket, slow_responder, until

from cvmprobe.errors import UsageError
from cvmprobe.native.responder import Responder

REVERSE, BOTH = 1, 2
SENT_BYTES = 6  # place in the counts of the results
SENT_SERIES = 2


@pytest.mark.parametrize("streams", [1, 2, 3, 16, 32, 64])
def test_a_reverse_stream_agrees_to_the_byte(responder, streams):
    engine = admitted(responder, "tcp_stream", direction="reverse", streams=streams)
    *seen, total = watch(engine)
    received = [shot.counters["reverse_receiver_bytes"] for shot in seen]
    windows = [after - before for before, after in zip([0, *received], received, strict=False)]
    assert min(windows) >= 0
    assert sum(windows) == total.counters["reverse_receiver_bytes"] == sum(engine.reverse_bins) > 0
    assert engine.results["sent_bytes"] == sum(engine.bins["sent_bytes"]) == sum(engine.reverse_bins)
    assert engine.results["bytes"] == 0
    assert "sent_bytes" not in total.counters
    assert engine.error is None
    engine.close()


@pytest.mark.parametrize("discard", [False, True], ids=["copy", "discard"])
@pytest.mark.parametrize("streams", [1, 2, 3, 16, 32])
def test_both_directions_agree_to_the_byte(responder, streams, discard):
    engine = admitted(responder, "tcp_stream", direction="both", streams=streams, discard=discard)
    *_, total = watch(engine)
    assert total.counters["sent_bytes"] == engine.results["bytes"] == sum(engine.bins["bytes"]) > 0
    assert total.counters["reverse_receiver_bytes"] == engine.results["sent_bytes"] == sum(engine.reverse_bins) > 0
    assert engine.error is None
    engine.close()


@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
def test_the_streams_add_up(responder, direction):
    engine = admitted(responder, "tcp_stream", direction=direction, streams=3)
    *_, total = watch(engine)
    for name in ("sent_bytes", "reverse_receiver_bytes", "retransmitted_segments"):
        parts = [value for each, value in total.counters.items() if each.startswith(name + ".")]
        assert sum(parts) == total.counters.get(name, 0)
        assert len(parts) == (3 if name in total.counters else 0)
    engine.close()


@pytest.mark.parametrize("direction", ["reverse", "both"])
@pytest.mark.parametrize("message_bytes", [1, 997, 1 << 20])
def test_odd_messages_agree_to_the_byte(responder, direction, message_bytes):
    engine = admitted(responder, "tcp_stream", direction=direction, message_bytes=message_bytes)
    *_, total = watch(engine)
    assert total.counters["reverse_receiver_bytes"] == engine.results["sent_bytes"] > 0
    engine.close()


def test_every_direction_works_over_ipv6():
    responder = Responder("::1")
    for direction in ("forward", "reverse", "both"):
        engine = admitted(responder, "tcp_stream", host="::1", direction=direction, streams=2, dscp=10)
        *_, total = watch(engine)
        assert total.counters.get("reverse_receiver_bytes", 0) == engine.results["sent_bytes"]
        assert total.counters.get("sent_bytes", 0) == engine.results["bytes"]
        assert engine.error is None
        engine.close()
    responder.close()


@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("limit", [1, 131071, 1_000_003])
def test_the_byte_limit_binds_each_direction_exactly(responder, direction, streams, limit):
    engine = admitted(
        responder, "tcp_stream", direction=direction, streams=streams, byte_limit=limit, duration_ms=20_000
    )
    *_, total = watch(engine, interval_ms=20_000)
    if direction != "reverse":
        assert total.counters["sent_bytes"] == engine.results["bytes"] == limit
    if direction != "forward":
        assert total.counters["reverse_receiver_bytes"] == engine.results["sent_bytes"] == limit
    assert total.t_ns - engine.started_ns < 20_000_000_000
    engine.close()


@pytest.mark.parametrize(("direction", "each"), [("reverse", 1_000_001), ("both", 500_000)])
def test_the_byte_cap_is_shared_by_the_directions(responder, direction, each):
    ticket = admit(responder, Ticket(), max_bytes=1_000_001)
    engine = engine_to(responder.port, ticket, direction=direction, max_bytes=1_000_001, duration_ms=20_000)
    *_, total = watch(engine, interval_ms=20_000)
    assert total.counters["reverse_receiver_bytes"] == engine.results["sent_bytes"] == each
    assert total.counters.get("sent_bytes", each) == each
    engine.close()


def test_the_responder_tells_of_the_connections_it_sends_on(responder):
    engine = admitted(responder, "tcp_stream", direction="both", streams=2)
    watch(engine)
    told = engine.results
    assert told["busy_ns"] > 0
    assert told["rtt_ns"] >= told["min_rtt_ns"] > 0
    assert told["path_mtu_bytes"] > told["mss_bytes"] > 0
    assert told["retransmitted_segments"] >= 0
    assert engine.responder_congestion_control == engine.facts["congestion_control"]
    engine.close()


def test_a_responder_that_only_receives_tells_nothing_of_sending(responder):
    engine = admitted(responder, "tcp_stream")
    watch(engine)
    assert not {"busy_ns", "rtt_ns", "path_mtu_bytes", "retransmitted_segments"} & set(engine.results)
    assert engine.responder_congestion_control == engine.facts["congestion_control"]
    engine.close()


# -- against slow oracles --


def send_by_hand(sizes):
    """A responder that sends so many bytes on each backward socket, between one byte and FIN of the initiator."""

    def serve(peer: SlowResponder) -> bytes:
        for sock, size in zip(peer.data, sizes, strict=True):
            assert sock.recv(2) == b"\0"
            sock.sendall(bytes(size))
            sock.shutdown(1)
        assert [sock.recv(1) for sock in peer.data] == [b""] * len(sizes)
        counts = (0, 0, 1, 1, 1, 0, sum(sizes), len(sizes))
        return peer.ticket.results(peer.control_nonce, counts, [0] * 5)

    return serve


@pytest.mark.parametrize("sizes", [(1,), (100_003,), (5, 0, 1_000_000)])
def test_a_slow_responder_sends_what_is_received(sizes):
    ticket = Ticket()
    with slow_responder(ticket, send_by_hand(sizes)) as peer:
        engine = engine_to(peer.port, ticket, direction="reverse", streams=len(sizes), rate_bytes_per_s=1 << 40)
        *_, total = watch(engine)
        assert peer.terms == Terms(
            sockets=len(sizes),
            direction=REVERSE,
            interval_ms=INTERVAL_MS,
            duration_ms=200,
            request_bytes=131072,
            rate_bytes_per_s=1 << 40,
            byte_limit=PLENTY,
        )
        assert total.counters["reverse_receiver_bytes"] == engine.results["sent_bytes"] == sum(sizes)
        assert sum(engine.reverse_bins) == sum(sizes)
        assert len(engine.reverse_bins) == 5
        engine.close()


def test_a_reverse_responder_waits_for_the_start_and_sends_random_messages(responder):
    ticket = admit(responder, Ticket())
    terms = Terms(
        sockets=2, direction=REVERSE, interval_ms=100, duration_ms=60_000, request_bytes=4096, byte_limit=40960
    )
    with SlowInitiator(responder.port, ticket, terms) as slow:
        slow.data[0].settimeout(0.1)
        with pytest.raises(TimeoutError):
            slow.data[0].recv(1)
        received = []
        for sock in slow.data:
            sock.settimeout(30)
            sock.sendall(b"\0")
            pieces = []
            while piece := sock.recv(1 << 16):
                pieces.append(piece)
            received.append(b"".join(pieces))
            sock.shutdown(1)
        counts, _ = slow.read_results()
    assert counts[SENT_BYTES] == sum(map(len, received)) == sum(slow.series[SENT_SERIES]) == 40960
    message = received[0][:4096]
    assert received[0] == message * (len(received[0]) // 4096)
    assert len(set(message)) > 200


def test_of_both_directions_the_second_half_is_backward(responder):
    ticket = admit(responder, Ticket())
    terms = Terms(sockets=2, direction=BOTH, interval_ms=100, duration_ms=60_000, request_bytes=100, byte_limit=300)
    with SlowInitiator(responder.port, ticket, terms) as slow:
        slow.data[1].sendall(b"\0")
        got = b""
        while piece := slow.data[1].recv(1 << 16):
            got += piece
        slow.data[0].sendall(bytes(777))
        counts, bins = slow.drain()
    assert len(got) == counts[SENT_BYTES] == 300
    assert counts[0] == sum(bins) == 777


def test_what_is_no_start_is_cut(responder):
    ticket = admit(responder, Ticket())
    terms = Terms(sockets=1, direction=REVERSE, interval_ms=100, duration_ms=60_000, request_bytes=100)
    with SlowInitiator(responder.port, ticket, terms) as slow:
        slow.data[0].sendall(b"\0\0")
        assert slow.read_results() is None
    until(lambda: responder.counters()["cut"] == 1, "it is cut")


# -- peers that do not do their part --


@pytest.mark.parametrize("direction", ["reverse", "both"])
def test_stop_acts_beside_a_silent_peer(direction):
    ticket = Ticket()
    with slow_responder(ticket, lambda peer: peer.over.wait() and None) as peer:
        engine = engine_to(peer.port, ticket, direction=direction, duration_ms=60_000)
        engine.arm()
        engine.start()
        begin = time.monotonic()
        engine.stop()
        assert time.monotonic() - begin < STOP_BOUND_S
        assert engine.error is None
        assert engine.results is None
        engine.close()


@pytest.mark.parametrize("direction", ["reverse", "both"])
def test_a_peer_that_goes_away_is_an_error(responder, direction):
    ticket = admit(responder, Ticket())
    engine = engine_to(responder.port, ticket, direction=direction, duration_ms=60_000, streams=2)
    engine.arm()
    engine.start()
    threading.Timer(0.1, responder.revoke, [ticket.session_id]).start()
    last = engine.snapshot(engine.started_ns + 30_000_000_000)
    assert last.finished
    assert engine.error is not None
    assert engine.results is None
    engine.close()


@pytest.mark.parametrize("direction", ["reverse", "both"])
def test_an_initiator_that_stops_is_cut(responder, direction):
    engine = admitted(responder, "tcp_stream", direction=direction, duration_ms=60_000, streams=2)
    engine.arm()
    engine.start()
    engine.close()
    until(lambda: responder.counters()["active"] == 0, "the responder is done")
    assert responder.counters()["cut"] == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"direction": "sideways"}, "'sideways'"),
        ({"direction": "both", "streams": 33}, "33 streams: there may be 1 to 32"),
        ({"direction": "reverse", "max_bytes": 0}, "0 bytes are allowed"),
        ({"direction": "both", "max_bytes": 1}, "1 bytes are allowed"),
    ],
)
def test_what_no_responder_keeps_is_refused_at_once(change, named):
    with pytest.raises(UsageError, match=named):
        engine_to(1, Ticket(), **change)


@pytest.mark.parametrize("direction", ["reverse", "both"])
def test_nothing_of_a_stream_stays(responder, direction):
    def live():
        engine = admitted(responder, "tcp_stream", streams=2, direction=direction, duration_ms=10)
        watch(engine)
        engine.close()
        until(lambda: responder.counters()["active"] == 0, "the responder is done")

    assert_no_leak(live)
