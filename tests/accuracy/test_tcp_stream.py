"""tcp_stream against token buckets and path MTUs: what the receiver counted is what the bucket let through."""

from itertools import islice

import pytest
from tests.accuracy.ends import begin, measure, serving
from tests.accuracy.namespaces import bucket, mtu_of_links

from cvmprobe.model.window import Direction, Flag, Probe

PAYLOAD_SHARE = {4: 1448 / 1514, 6: 1428 / 1514}  # of a full segment with timestamps, Ethernet header included
MBIT = 1_000_000
STEPS = {50 * MBIT: 1 << 16, 1_000 * MBIT: 1 << 20, 5_000 * MBIT: 1 << 22}  # rate: burst, less than 0.3 % of a trial
SECONDS = {50 * MBIT: 8, 1_000 * MBIT: 3, 5_000 * MBIT: 3}
BACK = "reverse_receiver_bytes"
TRIALS = 4  # only a trial whose threads had their CPUs says whether we are right; the last one counts whatever it was
CONGESTION = "cubic"  # fills the bucket all the time; bbr pauses to look at the path


def trial(net, seconds=3, **asked):
    """Measure for some seconds after one; again while the machine was too busy to fill the bucket.

    What waits behind a lost segment when the time is over has passed the bucket and is not received: up to a queue of
    the bucket, 0.2 MB. So a slow bucket needs longer.
    """
    asked = {"duration_ms": 1_000 * (1 + seconds), "omit_ms": 1_000, "congestion": CONGESTION, **asked}
    for _ in range(TRIALS):
        told = measure(net, Probe.TCP_STREAM, **asked)
        if not any(window.flags & {Flag.STARVED, Flag.CUT} for window in told.windows):
            break
    return told


def is_what_passes(told, counter, rate, family=4):
    goodput, expected = told.per_second(counter) * 8, rate * PAYLOAD_SHARE[family]
    print(f"{counter}: {goodput / MBIT:.3f} Mbit/s of {expected / MBIT:.3f}: {goodput / expected - 1:+.3%}")
    return goodput == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("rate", STEPS, ids=lambda rate: f"{rate // MBIT}Mbit")
@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_goodput_is_what_the_bucket_lets_through(net, family, rate):
    with bucket(net, net.b, rate, burst_bytes=STEPS[rate]):
        told = trial(net, SECONDS[rate], family=family)
    assert is_what_passes(told, "receiver_bytes", rate, family)


@pytest.mark.parametrize("rate", STEPS, ids=lambda rate: f"{rate // MBIT}Mbit")
def test_reverse_goodput_is_what_the_bucket_lets_through(net, rate):
    with bucket(net, net.a, rate, burst_bytes=STEPS[rate]):
        told = trial(net, SECONDS[rate], direction=Direction.REVERSE)
    assert is_what_passes(told, BACK, rate)


def test_several_streams_share_what_the_bucket_lets_through(net):
    rate = 200 * MBIT
    with bucket(net, net.b, rate):
        told = trial(net, streams=4)
    assert is_what_passes(told, "receiver_bytes", rate)
    for window in told.windows:
        assert window.counters["sent_bytes"] == sum(window.counters[f"sent_bytes.{stream}"] for stream in range(1, 5))


def test_asymmetry_shows_on_the_right_direction(net):
    """Acknowledgements wait in the other direction's bucket, so no way is as fast as alone; none is faster."""
    there, back = 200 * MBIT, 40 * MBIT
    with bucket(net, net.b, there), bucket(net, net.a, back):
        told = trial(net, direction=Direction.BOTH)
    for counter, rate in (("receiver_bytes", there), (BACK, back)):
        goodput, expected = told.per_second(counter) * 8, rate * PAYLOAD_SHARE[4]
        print(f"{counter}: {goodput / MBIT:.3f} Mbit/s of {expected / MBIT:.3f}")
        assert 0.4 * expected < goodput <= 1.02 * expected
    assert told.per_second("receiver_bytes") > 1.5 * told.per_second(BACK)


@pytest.mark.parametrize("direction", [Direction.FORWARD, Direction.REVERSE, Direction.BOTH])
def test_both_ends_come_to_the_same_totals_over_a_slow_path(net, direction):
    with bucket(net, net.b, 50 * MBIT), bucket(net, net.a, 50 * MBIT):
        told = measure(net, Probe.TCP_STREAM, direction=direction, streams=3, duration_ms=2_000)
    if direction is not Direction.REVERSE:
        assert told.totals["sent_bytes"] == told.totals["receiver_bytes"] > 0
    if direction is not Direction.FORWARD:
        assert told.totals["reverse_sent_bytes"] == told.totals[BACK] > 0
    assert not any(window.flags & {"cut", "error"} for window in told.windows)


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_a_change_of_the_path_mtu_is_seen(net, family):
    """The sender's own link stays as it is: only the middle's answers tell."""
    asked = {"duration_ms": 3_000, "rate_bytes_per_s": 10**7}
    with serving(net.b, family) as peer, begin(net, net.a, peer, Probe.TCP_STREAM, **asked) as running:
        windows = running.windows()
        seen = list(islice(windows, 5))
        with mtu_of_links(net, net.b, 1300):
            seen += windows
        told = running.told()
    assert not told.error
    assert seen[0].facts["path_mtu_bytes"] == "1500"
    assert seen[-1].facts["path_mtu_bytes"] == "1300"
    assert int(seen[-1].facts["mss_bytes"]) < 1300 < int(seen[0].facts["mss_bytes"])
    assert told.totals["retransmitted_segments"] > 0  # what was too large was lost
    assert told.totals["sent_bytes"] == told.totals["receiver_bytes"]
