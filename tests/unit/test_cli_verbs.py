"""Verbs against a collector that exists only here: what they print, write, and exit with."""

import asyncio
import csv
import errno
import io
import json
import os
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cvmprobe.cli import endpoint
from cvmprobe.cli.__main__ import main
from cvmprobe.errors import RefusedError, UnreachableError
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.query import Attachment, Missed, NodeStatus, ProbeStatus, SnapshotFormat, Summary
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import Direction, Instance, Phase, Probe, Window

A, B = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
INSTANCE = Instance("l1", Probe.TCP_RR, A, EndpointTarget(B, Path.INTER_NODE), Direction.BOTH, 1, {"wait": "block"})
WINDOW = Window(
    INSTANCE,
    1_700_000_000_123,
    1_000_000_000,
    Phase.STEADY,
    {"transactions": 100},
    {"latency_ns": Histogram(buckets={3000: 100}, sum=100 * 3350, sum_squares=1)},
)
RUN = Run("r1", "quick", 0.5, RunState.RUNNING, 1_700_000_000_000, None, Cost(9.0, 2 * 10**9, 10**9), 1)
LEASE = LeaseRecord("l1", "rr", INSTANCE, "running", "", {})
ENDED = replace(RUN, state=RunState.DONE, ended_unix_ms=1_700_000_009_000, leases=(replace(LEASE, state="done"),))
SUMMARY = Summary(
    A,
    Probe.TCP_RR,
    INSTANCE.target,
    Path.INTER_NODE,
    Direction.BOTH,
    {"wait": "block"},
    "transactions",
    9,
    9.0,
    900,
    100.0,
)


class Collector:
    """Answers as a collector does, out of its attributes."""

    def __init__(self):
        self.ended = ENDED
        self.windows = [WINDOW]
        self.ports = 0
        self.cancelled = []
        self.asked = []
        self.broken = None
        self.refusal = None
        self.hang = False

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def list_nodes(self):
        return [NodeStatus(A, Attachment.ATTACHED, "1", "s", None, 3, None, 0, self.ports, None)]

    async def list_probes(self, selection):
        self.asked.append(selection)
        return [ProbeStatus(INSTANCE, 2, 1_700_000_000_000)]

    @asynccontextmanager
    async def watching(self, selection):
        yield self.watch_windows(selection)

    async def watch_windows(self, selection):
        self.asked.append(selection)
        yield Missed(7)
        for window in self.windows * 3:
            yield window
        await asyncio.Event().wait()

    async def query_windows(self, selection, span):
        self.asked.append((selection, span))
        for window in self.windows:
            yield window

    async def summarize(self, selection, span):
        return [SUMMARY]

    async def start_run(self, suite, scale, repeats=None):
        self.asked.append((suite, scale))
        if self.refusal:
            raise self.refusal
        return RUN

    async def watch_run(self, run_id):
        yield replace(RUN, leases=(LEASE,))
        await asyncio.sleep(0)
        yield self.ended

    async def cancel_run(self, run_id):
        self.cancelled.append(run_id)
        return self.ended

    async def list_runs(self):
        return [ENDED, RUN]

    async def export_snapshot(self, run_id, span, *, with_samples, snapshot_format):
        self.asked.append((run_id, with_samples, snapshot_format))
        yield b"first "
        if self.broken:
            raise self.broken
        yield b"second"


@pytest.fixture
def collector(tmp_path, monkeypatch):
    fake = Collector()
    monkeypatch.chdir(tmp_path)
    for name in ("ca", "token"):
        (tmp_path / f"{name}.file").write_text("-----BEGIN CERTIFICATE-----")

    def client(connection, address=None, server_name=None):
        fake.dialled = address or connection.address, server_name
        return fake

    monkeypatch.setattr(endpoint.Connection, "client", client)
    return fake


def cvmprobe(line, *more):
    return main([*line.split(), *more, "--collector", "h:1", "--ca-file", "ca.file", "--token-file", "token.file"])


def test_get_nodes_says_unknown_where_nobody_knows(collector, capsys):
    assert cvmprobe("get nodes") == 0
    cells = capsys.readouterr().out.splitlines()[-1].split()
    assert cells == ["a/pod", "attached", "1", "-", "-", "unknown", "3", "unknown", "0"]
    assert cvmprobe("get nodes -o json") == 0
    (node,) = json.loads(capsys.readouterr().out)
    assert (node["numbered_batches"], node["stored_batches"], node["environment"]) == (None, 3, None)


def test_get_probes_passes_the_selection_on(collector, capsys):
    assert cvmprobe("get probes --node a --node b --probe tcp_rr --path inter_node --target b/pod") == 0
    (selection,) = collector.asked
    assert selection.nodes == ("a", "b")
    assert selection.probes == (Probe.TCP_RR,)
    assert selection.paths == (Path.INTER_NODE,)
    assert selection.targets == ("b/pod",)
    assert "tcp_rr" in capsys.readouterr().out


def test_get_windows_as_csv_has_a_row_per_metric(collector, capsys):
    assert cvmprobe("get windows --since 5m --run r1 -o csv") == 0
    counter, histogram = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (counter["metric"], counter["value"]) == ("transactions", "100")
    assert (histogram["metric"], histogram["count"], histogram["p99"]) == ("latency_ns", "100", "")
    assert float(histogram["p90"]) == pytest.approx(3365, rel=0.01)
    ((selection, span),) = collector.asked
    assert selection.run_id == "r1"
    assert span.start_unix_ms is not None
    assert span.end_unix_ms is None


def test_what_fits_nothing_says_where_to_look(collector, capsys):
    collector.windows = []
    assert cvmprobe("get windows --node nobody -o json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == []
    assert "nothing fits; what there is: cvmprobe get nodes" in captured.err


def test_get_windows_as_json_keeps_the_buckets(collector, capsys):
    assert cvmprobe("get windows -o json") == 0
    (window,) = json.loads(capsys.readouterr().out)
    assert window["histograms"]["latency_ns"]["buckets"] == {"3000": 100}
    assert window["counters"] == {"transactions": 100}


def test_get_runs(collector, capsys):
    assert cvmprobe("get runs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "1/1" in lines[-2]
    assert "0/1" in lines[-1]


def test_watch_ends_after_the_count_and_tells_what_it_missed(collector, capsys):
    assert cvmprobe("watch --count 2 -o json") == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["probe"] for line in captured.out.splitlines()] == ["tcp_rr", "tcp_rr"]
    assert "missed 7 windows" in captured.err


def test_watch_without_a_terminal_prints_lines(collector, capsys):
    assert cvmprobe("watch --count 2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "throughput" in lines[0]
    assert "tcp_rr" in lines[1]


def test_watch_an_agent_itself(collector, capsys):
    collector.ports = 4711
    assert cvmprobe("watch --agent a --count 1 -o json") == 0
    assert collector.dialled == ("127.0.0.1:4711", A.server_name)
    assert cvmprobe("watch --agent nobody") == 2
    assert "--agent 'nobody': no such node; there are: a/pod" in capsys.readouterr().err
    collector.ports = 0
    assert cvmprobe("watch --agent a") == 2
    assert "a/pod serves nobody itself; watch it at the collector: --node a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (RunState.DONE, 0),
        (RunState.PARTIAL, 3),
        (RunState.FAILED, 1),
        (RunState.CANCELLED, 1),
        (RunState.INTERRUPTED, 1),
    ],
)
def test_a_run_ends_in_a_table_a_file_and_its_exit_code(collector, capsys, tmp_path, state, code):
    collector.ended = replace(ENDED, state=state, detail="disk: no space")
    assert cvmprobe("run quick --scale 0.5 -f out.zip") == code
    captured = capsys.readouterr()
    assert (tmp_path / "out.zip").read_bytes() == b"first second"
    assert captured.out.startswith("tcp_rr\n")
    assert "100" in captured.out.split()
    assert "at most 9 s, 2.0 GB over the network and 1.0 GB written to disks" in captured.err
    assert "[1/1] rr  a/pod → b/pod over inter_node" in captured.err
    assert "cvmprobe snapshot show out.zip" in captured.err
    assert (f"cvmprobe: run r1 is {state}: disk: no space" in captured.err) is (code != 0)
    assert ("quick", 0.5) in collector.asked
    assert ("r1", True, SnapshotFormat.ZIP) in collector.asked


def test_a_disk_that_is_full_takes_no_figure_away(collector, capsys, tmp_path):
    collector.broken = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    before = set(tmp_path.iterdir())
    assert cvmprobe("run quick -f out.zip") == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("tcp_rr\n")
    assert (
        "cvmprobe: cannot write out.zip: No space left on device; make room, or name a file elsewhere" in captured.err
    )
    assert "snapshot show" not in captured.err
    assert set(tmp_path.iterdir()) == before


def test_a_run_that_cannot_be_had_now_is_no_wrong_usage(collector, capsys):
    collector.refusal = RefusedError("suite quick finds nothing to measure: 0 agents are attached")
    assert cvmprobe("run quick") == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("0 agents are attached")


def test_a_run_as_json_is_one_document_on_stdout(collector, capsys):
    assert cvmprobe("run quick -o json -f out.zip") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "done"
    assert document["summaries"][0]["rate_per_s"] == 100.0
    assert document["snapshot"] == "out.zip"


def test_nothing_is_written_when_the_export_breaks(collector, capsys, tmp_path):
    collector.broken = UnreachableError("gone")
    before = sorted(tmp_path.iterdir())
    assert cvmprobe("run quick -f out.zip") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "cvmprobe: gone"
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_is_there_is_kept(collector, capsys, tmp_path):
    (tmp_path / "out.zip").write_text("precious")
    assert cvmprobe("run quick -f out.zip") == 2
    assert "out.zip is there already" in capsys.readouterr().err
    assert (tmp_path / "out.zip").read_text() == "precious"
    assert collector.asked == []


def test_export_writes_what_is_asked_for(collector, capsys, tmp_path):
    assert cvmprobe("snapshot export --run r1 --samples --format csv") == 0
    (written,) = tmp_path.glob("cvmprobe-*.csv")
    assert written.read_bytes() == b"first second"
    assert collector.asked == [("r1", True, SnapshotFormat.CSV)]
