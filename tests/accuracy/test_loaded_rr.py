"""loaded_rr through a token bucket: the stream fills the bucket's queue, and the round trips wait in it."""

import pytest
from tests.accuracy.ends import measure
from tests.accuracy.namespaces import bucket

from cvmprobe.analysis import merge, quantiles
from cvmprobe.model.window import Direction, Probe

RATE = 50_000_000
LATENCY_MS = 50  # of a full queue


def median_ms(told, half):
    name = f"{half}_latency_ns"
    return (
        quantiles(merge([window.histograms[name] for window in told.steady() if name in window.histograms]))[0.5] / 1e6
    )


@pytest.mark.parametrize(
    ("direction", "counter"), [(Direction.FORWARD, "receiver_bytes"), (Direction.REVERSE, "reverse_receiver_bytes")]
)
def test_a_full_queue_is_what_the_loaded_half_waits_for(net, direction, counter):
    towards = net.b if direction is Direction.FORWARD else net.a
    with bucket(net, towards, RATE, latency_ms=LATENCY_MS):
        told = measure(net, Probe.LOADED_RR, direction=direction, duration_ms=6_000, omit_ms=1_000)
    idle, loaded = median_ms(told, "idle"), median_ms(told, "loaded")
    steady = [window for window in told.steady() if counter in window.counters]
    goodput = sum(window.counters[counter] for window in steady) / sum(window.duration_ns for window in steady) * 8e9
    print(f"idle {idle:.3f} ms, loaded {loaded:.3f} ms, {goodput / 1e6:.2f} Mbit/s")
    assert goodput == pytest.approx(RATE * 1448 / 1514, rel=0.02)
    assert loaded > 3 * idle
    assert loaded < LATENCY_MS * 2
