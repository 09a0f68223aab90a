"""A DuckDB store in a temporary file, and windows of one stream to put into it."""

import pytest
from hypothesis import HealthCheck, settings

from cvmprobe.model.delivery import Batch, StreamKey
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Role
from cvmprobe.model.endpoint import Path as Joint
from cvmprobe.model.window import Direction, Instance, Phase, Probe, Window
from cvmprobe.store.duck import DuckStore

STREAM = StreamKey("local", Endpoint("local-a", Role.POD), "boot", "start")
ONE = Instance(
    "lease-1",
    Probe.TCP_RR,
    STREAM.endpoint,
    EndpointTarget(Endpoint("local-b", Role.POD), Joint.INTER_NODE),
    Direction.FORWARD,
    0,
    {"wait": "block"},
)
several = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def window(end_unix_ms=1, instance=ONE, **rest):
    return Window(instance, end_unix_ms, 10**9, Phase.STEADY, **({"counters": {"transactions": 1}} | rest))


def batch(seq, *windows):
    return Batch(seq, windows or (window(seq),))


def ends(store, *asked):
    return [one.end_unix_ms for one in store.windows(*asked)]


@pytest.fixture
def store(tmp_path):
    with_file = DuckStore(tmp_path / "store.duckdb")
    yield with_file
    with_file.close()


def reopened(store):
    store.close()
    return DuckStore(store.path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    store = DuckStore(tmp_path_factory.mktemp("store") / "store.duckdb")
    yield store
    store.close()
