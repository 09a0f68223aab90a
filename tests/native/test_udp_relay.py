"""udp_stream through a relay that loses, repeats, delays and reorders by a seed: what is told is what the relay did."""

import pytest
from tests.native.admitting import admit
from tests.native.sessions import engine_to
from tests.native.slow_session import Ticket
from tests.native.test_udp_sequence import SlowArrivals
from tests.native.test_udp_stream import watch
from tests.native.udp_relay import Disturbed, relaying

SIZE = 1000
RATE = 300_000  # bytes/s: all that is sent has room in every socket on its way, however late its reader comes
DIRECTIONS = ["forward", "reverse", "both"]


def measure(responder, there, back, **asked):
    """Return (datagrams sent, what was received) of each way that was measured, by the relay's names."""
    with relaying(responder.port, there, back) as relay:
        ticket = admit(responder, Ticket("udp_stream"))
        settings = {"datagram_bytes": SIZE, "rate_bytes_per_s": RATE, "rcvbuf_bytes": 200_000, "duration_ms": 500}
        engine = engine_to(relay.port, ticket, **{**settings, **asked})
        *_, total = watch(engine)
        results, received = engine.results, engine.received
        assert results is not None
        sent = total.counters.get("sent_datagrams")
        engine.close()
    ways = {} if sent is None else {"there": (sent, results)}
    return ways if received is None else {**ways, "back": (results["sent_operations"], received)}


def account_of(numbers) -> dict[str, int]:
    slow = SlowArrivals()
    for number in numbers:
        slow.take(number)
    names = {"unique": "operations", **{name: name for name in ("duplicates", "reordered", "reorder_extent")}}
    return {told: slow.counts[name] for name, told in names.items()}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("offload", ["best", "mmsg", "none"])
def test_counts_are_those_of_the_relay(responder, direction, offload):
    ways = {
        name: Disturbed(seed, drop=0.05, repeat=0.05, late=0.1, late_s=0.02, spread_s=0.002)
        for seed, name in enumerate(["there", "back"])
    }
    measured = measure(responder, ways["there"], ways["back"], direction=direction, offload=offload)
    assert measured.keys() == {"forward": {"there"}, "reverse": {"back"}, "both": {"there", "back"}}[direction]
    for name, (sent, received) in measured.items():
        truth = account_of(ways[name].numbers)
        assert {told: received[told] for told in truth} == truth
        assert min(truth.values()) > 0
        assert sent - received["operations"] == ways[name].dropped > 0
        assert received["bytes"] == received["operations"] * SIZE
        assert received["socket_drops"] == 0


def test_what_happens_one_way_shows_that_way_only(responder):
    there, back = Disturbed(1, drop=0.2, repeat=0.2, late=0.2), Disturbed(2)
    measured = measure(responder, there, back, direction="both")
    sent, received = measured["back"]
    assert sent == received["operations"]
    assert received["duplicates"] == received["reordered"] == 0
    sent, received = measured["there"]
    assert sent - received["operations"] == there.dropped > 0
    assert received["duplicates"] > 0
    assert received["reordered"] > 0


def test_jitter_is_that_of_the_path(responder):
    """Delays even between 0 and d differ by d / 3 in the mean; what the machine adds is measured beside it."""
    spread_s = 0.060
    still = measure(responder, Disturbed(1), Disturbed(2))["there"][1]["jitter_ns"]
    spread = measure(responder, Disturbed(1, spread_s=spread_s), Disturbed(2))["there"][1]["jitter_ns"]
    mean = spread_s / 3 * 1e9
    assert mean * 0.4 - still < spread < mean * 1.8 + still
