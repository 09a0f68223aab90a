"""A batch comes back from its bytes as it was; anything else is refused."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.errors import WireError
from cvmprobe.model.delivery import Batch, Bye
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe, Window
from cvmprobe.wire.codec.ingest import encode_agent_message
from cvmprobe.wire.codec.spooled import pack_batch, unpack_batch

INSTANCE = Instance(
    "1" * 32,
    Probe.TCP_RR,
    Endpoint("a", Role.POD),
    EndpointTarget(Endpoint("b", Role.POD), Path.INTER_NODE),
    Direction.FORWARD,
    0,
    {"wait": "block"},
)
BATCH = Batch(
    7,
    (
        Window(
            INSTANCE,
            1,
            2,
            Phase.STEADY,
            {"transactions": 3},
            {"latency_ns": Histogram(buckets={5: 2}, sum=9, minimum=1, maximum=4)},
            {"engine": "tcp_rr"},
            frozenset({Flag.LATE}),
        ),
    ),
)


def test_a_batch_comes_back():
    assert unpack_batch(pack_batch(BATCH)) == BATCH


def test_another_message_is_refused():
    with pytest.raises(WireError, match="not a batch"):
        unpack_batch(encode_agent_message(Bye(3)).SerializeToString())


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes):
    with pytest.raises(WireError):
        unpack_batch(junk)


@given(st.integers(0, len(pack_batch(BATCH)) - 1))
def test_a_truncated_batch_never_passes_for_the_whole(length: int):
    with suppress(WireError):
        assert unpack_batch(pack_batch(BATCH)[:length]) != BATCH
