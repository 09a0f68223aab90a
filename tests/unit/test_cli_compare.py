"""cvmprobe compare on snapshot files: what it prints, and the exit codes that gates in CI go by."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from cvmprobe.cli.__main__ import main
from cvmprobe.cli.comparison import change
from cvmprobe.cli.endpoint import Connection
from cvmprobe.model.delivery import Batch, Hello, StreamKey
from cvmprobe.model.endpoint import Endpoint, NodeTarget, Role
from cvmprobe.model.environment import Confidence, Environment, Fact, TeeKind, TeeVerdict
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe, Window
from cvmprobe.store.duck import DuckStore
from cvmprobe.store.snapshot import write_snapshot

NODE = StreamKey("local", Endpoint("local-a", Role.POD), "boot", "start-a")
TEE = TeeVerdict(TeeKind.NONE, None, None, Confidence.HIGH, ())


def lease(repeat, unit_ns, flags=frozenset()):
    instance = Instance(
        f"lease-{repeat}", Probe.COMPUTE, NODE.endpoint, NodeTarget(), Direction.NONE, repeat, {"kernel": "integer"}
    )
    value = round(unit_ns * 1e6)
    spent = Histogram(buckets={5000: 1}, sum=value, sum_squares=value**2)
    facts = {"engine": "integer"}
    return Window(instance, repeat, 10**9, Phase.STEADY, {}, {"unit_fs": spent}, facts, flags)


@pytest.fixture
def snapshot(tmp_path):
    """Writes a snapshot of a run of the compute suite, in which a unit takes so many ns."""
    made = []

    def make(unit_ns, *, repeats=6, kernel="6.18", flags=frozenset()):
        chance = random.Random(len(made))
        windows = [lease(repeat, unit_ns * chance.lognormvariate(0, 0.002), flags) for repeat in range(1, repeats + 1)]
        records = tuple(
            LeaseRecord(one.instance.assignment_id, "integer", one.instance, "done", "", {}) for one in windows
        )
        run = Run("r1", "compute", 1.0, RunState.DONE, 0, 9_999, Cost(1, 0, 0), len(records), records)
        store = DuckStore(tmp_path / f"{len(made)}.duckdb")
        facts = Environment((Fact("kernel", kernel, "uname"),), TEE)
        store.put_node(NODE, Hello("0.1", NODE.endpoint, "boot", "start-a", 1, 0, facts))
        store.commit(NODE, [Batch(1, tuple(windows))])
        store.put_run(run)
        made.append(tmp_path / f"{len(made)}.snapshot.zip")
        write_snapshot(store, made[-1])
        store.close()
        return str(made[-1])

    return make


@pytest.mark.parametrize(
    ("now", "more", "code", "verdict"),
    [
        (2.0, [], 0, "same"),
        (2.2, [], 1, "worse"),
        (1.8, [], 0, "better"),
        (2.2, ["--fail-over", "20%"], 0, "worse"),
        (2.2, ["--fail-over", "5%"], 1, "worse"),
        (2.2, ["--min-effect", "0.15"], 0, "same"),
    ],
)
def test_the_exit_code_tells_of_a_regression(snapshot, capsys, now, more, code, verdict):
    assert main(["compare", snapshot(2.0), snapshot(now), "-o", "json", *more]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["verdicts"] == {verdict: 1}
    (row,) = told["comparisons"]
    assert (row["probe"], row["step"], row["where"], row["metric"]) == ("compute", "integer", "node", "unit_fs")
    assert row["ratio"] == pytest.approx(now / 2, rel=0.01)
    assert row["low"] <= row["ratio"] <= row["high"]
    assert row["repeats"] == [6, 6]


@pytest.mark.parametrize("changes", [{"repeats": 4}, {"kernel": "6.12"}, {"flags": frozenset({Flag.CUT})}])
def test_what_cannot_be_compared_is_partial(snapshot, capsys, changes):
    assert main(["compare", snapshot(2.0), snapshot(2.0, **changes), "-o", "json"]) == 3
    (row,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert row["verdict"] in ("undecided", "not comparable")
    assert row["reason"]


def test_force_compares_across_kernels(snapshot, capsys):
    files = snapshot(2.0), snapshot(2.2, kernel="6.12")
    assert main(["compare", *files]) == 3
    assert main(["compare", *files, "--force"]) == 1
    assert "kernel 6.18 against 6.12" in capsys.readouterr().out


def test_a_table_for_people_and_one_for_a_pull_request(snapshot, capsys):
    files = snapshot(2.0), snapshot(2.2)
    main(["compare", *files])
    table = capsys.readouterr().out
    main(["compare", *files, "-o", "markdown"])
    markdown = capsys.readouterr().out
    for text in (table, markdown):
        assert "compute integer node" in text
        assert "+10." in text
        assert "worse" in text
        assert "B against A: 1 worse" in text
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert len({line.count("|") for line in rows}) == 1


def test_what_is_undecided_says_what_to_do(snapshot, capsys):
    main(["compare", snapshot(2.0), snapshot(2.04)])
    out = capsys.readouterr().out
    assert re.search(r"undecided  (about|over) \d+ repeats a side would tell", out)
    assert "quieter nodes or a larger --min-effect" in out


def test_a_table_shows_units_that_people_read(snapshot, capsys):
    main(["compare", snapshot(2.0), snapshot(200.0)])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "compute" in line)
    assert re.search(r"unit mean +2(\.00\d)? +(199\.\d|200|200\.\d) +ns +x (99|100|101) ", row)


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (1.123, "+12.3 %"),
        (0.5, "-50.0 %"),
        (9.5, "+850.0 %"),
        (10, "+900.0 %"),
        (25.4, "x 25"),
        (0.04, "1/25"),
        (2e4, "over x 1,000"),
        (math.inf, "over x 1,000"),
        (0.0, "under 1/1,000"),
    ],
)
def test_a_change_is_written_so_that_it_is_read(ratio, shown):
    assert change(ratio) == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.snapshot.zip", "other.zip"], "no.snapshot.zip: there is no such file"),
        (["GOOD", "afile"], "afile: there is no such file, nor a collector that may have"),
        (["/", "GOOD"], "/ is a directory: give a snapshot file"),
        (["GOOD", "/dev/null"], "snapshot /dev/null: cannot be read"),
        (["GOOD", "GOOD", "--fail-over", "much"], "'much' is no share"),
        (["GOOD", "GOOD", "--min-effect", "-1%"], "'-1%' is no share"),
    ],
)
def test_wrong_usage_is_one_line(snapshot, capsys, arguments, message, monkeypatch, tmp_path):
    """What cannot be read, too: 1 would tell a pipeline of a regression."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    good = snapshot(2.0)
    assert main(["compare", *(good if one == "GOOD" else one for one in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_runs_that_a_collector_still_has_are_fetched(snapshot, capsys, monkeypatch, tmp_path):
    held = {"a1": Path(snapshot(2.0)).read_bytes(), "b2": Path(snapshot(2.2)).read_bytes()}
    asked = []

    class Collector:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            pass

        async def export_snapshot(self, run_id, span, *, with_samples, snapshot_format):
            asked.append(run_id)
            yield held[run_id]

    monkeypatch.setattr(Connection, "client", lambda *_: Collector())
    (tmp_path / "file").write_text("-----BEGIN CERTIFICATE-----")
    where = ["--collector", "h:1", "--ca-file", str(tmp_path / "file"), "--token-file", str(tmp_path / "file")]
    assert main(["compare", "a1", "b2", "-o", "json", *where]) == 1
    assert asked == ["a1", "b2"]
    assert json.loads(capsys.readouterr().out)["verdicts"] == {"worse": 1}
