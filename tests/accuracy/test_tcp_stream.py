"""tcp_stream against a token bucket: what the receiver counted is what the bucket let through."""

import pytest
from tests.accuracy.ends import measure
from tests.accuracy.namespaces import bucket

from cvmprobe.model.window import Probe

PAYLOAD_SHARE = {4: 1448 / 1514, 6: 1428 / 1514}  # of a full segment with timestamps, Ethernet header included


@pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
def test_goodput_is_what_the_bucket_lets_through(net, family):
    rate = 50_000_000
    with bucket(net, net.b, rate):
        told = measure(net, Probe.TCP_STREAM, family=family, duration_ms=4_000, omit_ms=1_000)
    goodput = told.per_second("receiver_bytes") * 8
    print(f"{goodput / 1e6:.3f} Mbit/s of {rate * PAYLOAD_SHARE[family] / 1e6:.3f}")
    assert goodput == pytest.approx(rate * PAYLOAD_SHARE[family], rel=0.01)
