"""The udp_stream probe as programs use it: what is asked is checked, and every datagram is somewhere."""

import threading

import pytest
from tests.native.executions import admitted, run, setup_of, total_of
from tests.native.leaks import assert_no_leak

from cvmprobe.errors import DeniedError, UsageError
from cvmprobe.model.window import Direction, Flag, Phase, Probe
from cvmprobe.probes.catalog import CATALOG, prepare
from cvmprobe.probes.entry import BESIDE
from cvmprobe.probes.responder import Responder

UDP = Probe.UDP_STREAM
WAYS = {Direction.FORWARD: [""], Direction.REVERSE: ["reverse_"], Direction.BOTH: ["", "reverse_"]}


@pytest.fixture
def responder():
    found = Responder("127.0.0.1", 0)
    yield found
    found.close()


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("offload", ["best", "none"])
def test_a_stream_is_whole(responder, direction, offload):
    seen, result = run(admitted(responder, UDP, direction=direction, streams=2, offload=offload, omit_ms=50))
    assert result.error is None
    assert len(seen) == len(result.windows)
    totals = result.totals
    for way in WAYS[direction]:
        for name in ("sent_bytes", "sent_datagrams", "receiver_bytes", "receiver_datagrams", "lost_datagrams"):
            assert total_of(result, way + name) == totals[way + name], name
        assert totals[f"{way}sent_datagrams"] == totals[f"{way}receiver_datagrams"] + totals[f"{way}lost_datagrams"]
        parts = totals[f"{way}network_lost_datagrams"], totals[f"{way}socket_lost_datagrams"]
        assert min(parts) >= 0
        assert sum(parts) == totals[f"{way}lost_datagrams"]
        assert totals[f"{way}receiver_bytes"] == totals[f"{way}receiver_datagrams"] * 1372 > 0
        assert totals[f"{way}duplicates"] == totals[f"{way}reordered"] == 0
    assert totals["responder_cpu_ns"] > 0
    assert {window.phase for window in result.windows} >= {Phase.WARMUP, Phase.STEADY}
    assert not any(Flag.CUT in window.flags or Flag.ERROR in window.flags for window in result.windows)
    here, there = ("send", "receive") if direction is Direction.FORWARD else ("receive", "send")
    for window in result.windows:
        assert {window.facts[f"{here}_offload"], window.facts[f"responder_{there}_offload"]} <= {"gso", "mmsg", "none"}


def test_a_rate_is_kept_and_loses_nothing(responder):
    _, result = run(admitted(responder, UDP, rate_bytes_per_s=500_000, datagram_bytes=1000, duration_ms=300))
    assert result.totals["lost_datagrams"] == 0
    assert result.totals["sent_datagrams"] <= 151
    assert "path_mtu_bytes" in result.windows[0].facts


@pytest.mark.parametrize("direction", WAYS)
def test_a_stop_is_cut(responder, direction):
    execution = prepare(admitted(responder, UDP, duration_ms=60_000, direction=direction))
    windows = execution.observe()
    next(windows)
    threading.Thread(target=execution.stop).start()
    list(windows)
    result = execution.result()
    assert result.error is None
    assert all(Flag.CUT in window.flags for window in result.windows)
    assert not any("lost_datagrams" in window.counters for window in result.windows)


def test_not_being_admitted_leaves_an_error(responder):
    seen, result = run(setup_of(UDP, responder.port))
    assert seen == []
    assert isinstance(result.error, DeniedError)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("streams", 0),
        ("streams", 65),
        ("datagram_bytes", 15),
        ("datagram_bytes", 65508),
        ("rate_bytes_per_s", -1),
        ("offload", "magic"),
        ("sndbuf_bytes", -1),
        ("dscp", 64),
        ("omit_ms", -1),
    ],
)
def test_a_bad_parameter_is_named(parameter, value):
    with pytest.raises(UsageError, match=parameter):
        prepare(setup_of(UDP, 1, **{parameter: value}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"duration_ms": None}, "needs a duration"),
        ({"direction": Direction.NONE}, "none"),
        ({"direction": Direction.BOTH, "streams": 33}, "32 at most"),
        ({"key": b""}, "no key"),
    ],
)
def test_what_cannot_be_measured_is_named(change, named):
    with pytest.raises(UsageError, match=named):
        prepare(setup_of(UDP, 1, **change))


def test_costs_bound_what_is_moved(responder):
    cost = CATALOG[UDP].cost
    _, result = run(admitted(responder, UDP, direction=Direction.BOTH, rate_bytes_per_s=500_000))
    moved = result.totals["sent_bytes"] + result.totals["reverse_sent_bytes"]
    assert 0 < moved <= cost({"rate_bytes_per_s": "500000"}, 200).network_bytes + 2 * 1372
    assert cost({}, 200).network_bytes == 2_500_000_000
    assert cost({"rate_bytes_per_s": "1000", "streams": "3"}, 2000).network_bytes == 12_000


def test_every_metric_of_the_catalog_is_measured(responder):
    found = set()
    for direction in WAYS:
        _, result = run(admitted(responder, UDP, direction=direction))
        found |= set(result.totals).union(*(window.counters for window in result.windows))
    beside = {metric.name for metric in BESIDE}
    assert found - beside == {metric.name for metric in CATALOG[UDP].metrics}


def test_nothing_of_an_execution_stays(responder):
    assert_no_leak(lambda: run(admitted(responder, UDP, duration_ms=10, interval_ms=10)), repeats=20)
