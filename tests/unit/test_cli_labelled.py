"""A page re-measured: each load stands under the page's name for it, beside what it really is."""

import pytest

from cvmprobe.cli import labelled as subject
from cvmprobe.cli.labelled import label_records, labelled
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role, VolumeTarget
from cvmprobe.model.query import Summary
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import Direction, Instance, Probe
from cvmprobe.suites import load_suite
from cvmprobe.suites.load import parse_suite

A, B = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
SUITE = """
title = "t"
interval_ms = 1000
repeats = 1
[[step]]
name = "both"
probe = "tcp_stream"
direction = "both"
duration_ms = 2000
paths = ["inter_node"]
stand_in = "loopback"
label = "page's stream"
really = "two streams each way"
parameters = { streams = 2 }
[[step]]
name = "rr"
probe = "tcp_rr"
direction = "forward"
duration_ms = 2000
paths = ["intra_node"]
label = "page's RR"
really = "one byte"
[[step]]
name = "fio"
probe = "disk"
duration_ms = 2000
volumes = ["scratch"]
label = "page's seq."
really = "random"
[[step]]
name = "unnamed"
probe = "disk"
duration_ms = 2000
volumes = ["scratch"]
"""


@pytest.fixture(autouse=True)
def suite(monkeypatch):
    made = parse_suite("page", SUITE)
    monkeypatch.setattr(subject, "load_suite", lambda name: made if name == "page" else load_suite(name))


def instance(probe, target, direction, **parameters):
    return Instance("x", probe, A, target, direction, 1, parameters)


STREAM = instance(Probe.TCP_STREAM, EndpointTarget(B, Path.LOOPBACK), Direction.BOTH, streams="2")
DISK = instance(Probe.DISK, VolumeTarget("scratch"), Direction.NONE)


def run(*leases, scale=0.05, suite="page"):
    records = tuple(LeaseRecord("x", step, of, state, detail, {}) for step, of, state, detail in leases)
    return Run("r", suite, scale, RunState.DONE, 0, 1, Cost(1, 1, 1), 1, records)


def summary(of, metric, rate, **more):
    return Summary(
        of.source, of.probe, of.target, of.path, of.direction, of.parameters, metric, 1, 1.0, 1, rate=rate, **more
    )


def lines(summaries, of):
    _, table = labelled(summaries, [of])
    columns = [[str(cell) for cell in column._cells] for column in table.columns]
    return [
        dict(zip(("label", "really", "from", "to", "path", "figure", "engine"), row, strict=True))
        for row in zip(*columns, strict=True)
    ], str(table.title)


def test_figures_stand_beside_the_page_s_names_and_what_the_loads_are():
    found = run(("both", STREAM, "done", ""), ("fio", DISK, "done", ""))
    summaries = [
        summary(STREAM, "receiver_bytes", 50e6, facts={"engine": "tcp_stream"}),
        summary(STREAM, "reverse_receiver_bytes", 30e6),
        summary(DISK, "reads", 256.0),
        summary(DISK, "read_bytes", 256.0 * 4096),
        summary(DISK, "writes", 512.0),
        summary(DISK, "write_bytes", 512.0 * 4096),
    ]
    rows, title = lines(summaries, found)
    assert "0.05" in title
    assert [(row["label"], row["really"]) for row in rows] == [
        ("page's stream", "two streams each way"),
        ("page's RR", "one byte"),
        ("page's seq.", "random"),
    ]
    assert rows[0]["figure"] == "640 Mbit/s both ways together, 160 Mbit/s a stream"
    assert rows[0]["path"] == "loopback, for want of inter_node"
    assert rows[0]["engine"] == "tcp_stream"
    assert rows[1]["figure"] == "not measured: nobody here is joined by intra_node"
    assert rows[2]["figure"] == "read 1.0 MiB/s, 256 IOPS; write 2.0 MiB/s, 512 IOPS"


def test_what_failed_says_why():
    rows, _ = lines([], run(("fio", DISK, "failed", "no room")))
    assert rows[2]["figure"] == "not measured: no room"


def test_round_trips_are_told_with_their_latency():
    rr = instance(Probe.TCP_RR, EndpointTarget(B, Path.INTRA_NODE), Direction.FORWARD)
    quantiles = {0.5: 30_000.0, 0.99: 90_000.0}
    summaries = [summary(rr, "transactions", 1234.0), summary(rr, "latency_ns", None, quantiles=quantiles)]
    rows, _ = lines(summaries, run(("rr", rr, "done", "")))
    assert rows[1]["figure"] == "1,234 round trips/s, p50 30.0 µs, p99 90.0 µs"
    assert rows[1]["path"] == "intra_node"


def test_other_suites_have_no_such_table():
    assert labelled([], [run(suite="quick"), run(suite="of another version")]) == []
    assert label_records([run(suite="quick")]) == []


@pytest.mark.parametrize("name", ["constellation-v1.3", "constellation-v2.6"])
def test_every_load_of_a_page_is_named_and_explained(name):
    suite = load_suite(name)
    assert all(step.label and step.really for step in suite.steps)
    assert len({step.name for step in suite.steps}) == len(suite.steps)
    assert len(label_records([run(suite=name)])) == len(suite.steps)
    sequential = [step for step in suite.steps if "seq." in step.label]
    assert all(step.really.startswith("random, not sequential") for step in sequential)
