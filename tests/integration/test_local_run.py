"""The whole on this machine: ``cvmprobe run quick --local`` with the real programs, and that nothing of it stays."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from pathlib import Path

import duckdb
import pytest

import cvmprobe

SOURCE = str(Path(cvmprobe.__file__).parents[1])
RUN = ("run", "quick", "--local", "--scale", "0.1")
WITHIN_S = 90


class Machine:
    """A directory, a runtime directory and a mark that all our processes carry."""

    def __init__(self, directory: Path):
        self.mark = f"mark-{uuid.uuid4().hex}"
        self.work, self.runtime = directory / "work", directory / "runtime"
        self.work.mkdir()
        self.runtime.mkdir(mode=0o700)
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("CVMPROBE_", "COLUMNS", "KUBE"))
            },
            "PYTHONPATH": SOURCE,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "HOME": str(directory),
            "TEST_MARK": self.mark,
        }

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "cvmprobe.cli", *arguments],
            cwd=self.work,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def processes(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def wait_until_alone(self) -> None:
        deadline = time.monotonic() + 30
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.processes() == []

    def left(self) -> list[str]:
        """What lies about, besides a snapshot."""
        files = [*self.work.iterdir(), *self.runtime.rglob("*")]
        return sorted(path.name for path in files if not path.name.endswith(".snapshot.zip"))


class Reader:
    """Reads a pipe in a thread, so that a line can be waited for and the pipe never fills."""

    def __init__(self, stream):
        self.lines = []
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        with stream:
            for line in stream:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, text: str) -> None:
        with self._news:
            self._news.wait_for(lambda: self._ended or any(text in line for line in self.lines), WITHIN_S)
            assert any(text in line for line in self.lines), "\n".join(self.lines)

    def rest(self) -> list[str]:
        self._thread.join(WITHIN_S)
        return self.lines


@pytest.fixture
def machine(tmp_path):
    here = Machine(tmp_path)
    yield here
    for pid in here.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A local run that has measured and stays alive while tests ask it; then it is ended and looked at."""
    here = Machine(tmp_path_factory.mktemp("kept"))
    process = here.start(*RUN, "--keep", "-f", "kept.snapshot.zip")
    out, err = Reader(process.stdout), Reader(process.stderr)
    try:
        err.wait_for("Kept alive until Ctrl-C")
        here.out, here.err = list(out.lines), list(err.lines)
        yield here
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_S) == 0, err.rest()
        assert here.processes() == []
        assert [name for name in here.left() if not name.startswith("asked-")] == []
    finally:
        for pid in here.processes():
            os.kill(pid, signal.SIGKILL)


def figures(lines: list[str]) -> dict[str, int]:
    """How many rows each table has: a title, two lines of header, a rule, and rows up to an empty line."""
    counts = {}
    for start, line in enumerate(lines):
        if line in ("disk", "tcp_rr", "tcp_stream"):
            counts[line] = lines[start + 4 :].index("")
    return counts


def error_line(result: subprocess.CompletedProcess) -> str:
    assert "Traceback" not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith("cvmprobe: ")
    return line


def read_windows(snapshot: Path, directory: Path, query: str) -> list[tuple]:
    """Query the windows of a snapshot as anybody could who has never heard of cvmprobe."""
    with zipfile.ZipFile(snapshot) as archive:
        archive.extract("windows.parquet", directory)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW windows AS FROM '{directory}/windows.parquet'")
        return connection.execute(query).fetchall()


def test_one_command_measures_this_machine(machine, tmp_path):
    result = machine.call(*RUN)
    assert result.returncode == 0, result.stderr
    assert machine.processes() == []
    assert machine.left() == []
    (snapshot,) = machine.work.iterdir()
    assert snapshot.name.startswith("cvmprobe-2")
    probes = read_windows(snapshot, tmp_path, "SELECT DISTINCT probe FROM windows")
    assert {probe for (probe,) in probes} == {"tcp_rr", "tcp_stream", "disk"}
    for word in ("throughput", "[Gbit/s]", "p50", "p99", "[µs]", "IOPS", "late", "[%]", "flags"):
        assert word in result.stdout
    assert figures(result.stdout.splitlines()) == {"disk": 2, "tcp_rr": 2, "tcp_stream": 2}
    assert f"cvmprobe snapshot show {snapshot.name}" in result.stderr
    shown = machine.call("snapshot", "show", snapshot.name)
    assert shown.returncode == 0, shown.stderr
    assert result.stdout in shown.stdout


@pytest.mark.parametrize("moment", ["starting a collector", "[1/", "[4/", "writing "])
def test_ctrl_c_leaves_nothing(machine, moment):
    process = machine.start(*RUN)
    out, err = Reader(process.stdout), Reader(process.stderr)
    err.wait_for(moment)
    process.send_signal(signal.SIGINT)
    code = process.wait(WITHIN_S)
    assert machine.processes() == []
    assert machine.left() == []
    text = "\n".join(out.rest() + err.rest())
    assert "Traceback" not in text
    if moment != "writing ":
        assert code == 130, text
        assert list(machine.work.iterdir()) == []
        assert "get windows --run" not in text  # there is nobody left to ask
    assert code in (0, 130), text
    for snapshot in machine.work.iterdir():
        assert zipfile.ZipFile(snapshot).testzip() is None


def test_a_killed_parent_leaves_no_process(machine):
    process = machine.start(*RUN)
    out, err = Reader(process.stdout), Reader(process.stderr)
    err.wait_for("[2/")
    assert len(machine.processes()) == 4
    process.kill()
    process.wait(WITHIN_S)
    machine.wait_until_alone()
    out.rest()
    told = machine.call("get", "nodes")
    assert told.returncode == 1
    assert f"the local run (process {process.pid}) has ended" in error_line(told)


def child(machine: Machine, name: str) -> int:
    (pid,) = [
        pid for pid in machine.processes() if f"/{name}.toml".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


@pytest.mark.parametrize("keep", [False, True])
def test_an_agent_that_dies_makes_the_run_partial(machine, tmp_path, keep):
    process = machine.start(*RUN, *(["--keep"] if keep else []))
    out, err = Reader(process.stdout), Reader(process.stderr)
    err.wait_for("[1/")
    os.kill(child(machine, "local-b"), signal.SIGKILL)
    if keep:
        err.wait_for("Kept alive until Ctrl-C")
        process.send_signal(signal.SIGINT)
    assert process.wait(WITHIN_S) == 3, err.rest()
    told = "\n".join(err.rest())
    assert "local-b was ended by signal 9 (SIGKILL); its last line: " in told
    assert "is partial: " in told
    assert figures(out.rest())["disk"] == 2
    assert machine.processes() == []
    assert machine.left() == []
    (snapshot,) = machine.work.iterdir()
    probes = read_windows(snapshot, tmp_path, "SELECT DISTINCT probe FROM windows")
    assert ("disk",) in probes


def test_a_collector_that_dies_ends_the_run_with_its_reason(machine):
    process = machine.start(*RUN)
    out, err = Reader(process.stdout), Reader(process.stderr)
    err.wait_for("[1/")
    os.kill(child(machine, "collector"), signal.SIGKILL)
    assert process.wait(WITHIN_S) == 1
    out.rest()
    assert err.rest()[-1].startswith("cvmprobe: collector was ended by signal 9 (SIGKILL); its last line: ")
    assert machine.processes() == []
    assert list(machine.work.iterdir()) == []
    assert machine.left() == []


def test_the_table_has_a_row_for_each_measurement(kept):
    assert figures(kept.out) == {"disk": 2, "tcp_rr": 2, "tcp_stream": 2}
    for source, target in (("local-a", "local-b"), ("local-b", "local-a")):
        assert sum(line.split()[:3] == [source, target, "loopback"] for line in kept.out) == 2, kept.out
    assert any("[1/6] rr" in line for line in kept.err)
    assert any("at most" in line and "GB over the network" in line for line in kept.err)


def test_a_second_local_run_is_refused(kept):
    result = kept.call(*RUN)
    assert result.returncode == 1
    assert "a local run is alive already (process " in error_line(result)
    assert "use it: cvmprobe get nodes" in error_line(result)


def test_both_nodes_are_there_and_nothing_is_lost(kept):
    result = kept.call("get", "nodes", "-o", "json")
    assert result.returncode == 0, result.stderr
    nodes = json.loads(result.stdout)
    assert [(node["node"], node["attachment"], node["lost_batches"]) for node in nodes] == [
        ("local-a", "attached", 0),
        ("local-b", "attached", 0),
    ]
    assert {node["environment"]["tee"]["attested"] for node in nodes} == {False}
    table = kept.call("get", "nodes")
    assert table.stdout.count("attached") == 2


def test_the_run_is_on_record(kept):
    (run,) = json.loads(kept.call("get", "runs", "-o", "json").stdout)
    assert (run["suite"], run["scale"], run["state"]) == ("quick", 0.1, "done")
    assert run["leases_total"] == run["leases_ended"] == len(run["leases"])
    result = kept.call("get", "windows", "--run", run["run_id"], "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert {row["probe"] for row in rows} == {"tcp_rr", "tcp_stream", "disk"}
    assert {row["metric"] for row in rows} >= {"sent_bytes", "receiver_bytes", "latency_ns", "transactions", "total_ns"}


def test_the_windows_of_a_stream_add_up_to_its_totals(kept):
    (run,) = json.loads(kept.call("get", "runs", "-o", "json").stdout)
    windows = json.loads(kept.call("get", "windows", "--run", run["run_id"], "-o", "json").stdout)
    streams = [lease for lease in run["leases"] if lease["probe"] == "tcp_stream"]
    assert streams
    for lease in streams:
        mine = [window["counters"] for window in windows if window["assignment_id"] == lease["lease_id"]]
        for metric in ("sent_bytes", "receiver_bytes"):
            assert sum(counters[metric] for counters in mine) == lease["totals"][metric] > 0


@pytest.mark.parametrize("where", [(), ("--agent", "local-a"), ("--agent", "local-b/pod")])
def test_live_windows_come_from_the_collector_and_from_an_agent(kept, where):
    result = kept.call("watch", "-o", "json", "--count", "3", *where)
    assert result.returncode == 0, result.stderr
    windows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(windows) == 3
    assert {window["probe"] for window in windows} == {"tcp_rr"}
    if where:
        assert {window["source"] for window in windows} == {where[1].removesuffix("/pod") + "/pod"}
    assert all(window["counters"]["transactions"] > 0 for window in windows)


def test_a_watcher_that_is_interrupted_ends_quietly(kept):
    process = kept.start("watch")
    out = Reader(process.stdout)
    out.wait_for("tcp_rr")
    process.send_signal(signal.SIGINT)
    assert process.wait(WITHIN_S) == 130
    with process.stderr as stderr:
        assert stderr.read() == ""


def test_a_reader_that_has_seen_enough_hears_nothing(kept):
    process = kept.start("watch", "-o", "json")
    assert json.loads(process.stdout.readline())["probe"] == "tcp_rr"
    process.stdout.close()
    assert process.wait(WITHIN_S) == 1
    with process.stderr as stderr:
        assert stderr.read() == ""


def test_a_snapshot_of_what_is_there_can_be_written(kept, tmp_path):
    result = kept.call("snapshot", "export", "--samples", "-f", "asked-all.snapshot.zip")
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(kept.work / "asked-all.snapshot.zip") as archive:
        assert {"manifest.json", "windows.parquet", "samples.parquet"} <= set(archive.namelist())
        assert archive.testzip() is None
    ((count,),) = read_windows(kept.work / "asked-all.snapshot.zip", tmp_path, "SELECT count(*) FROM windows")
    assert count > 0


def test_another_run_can_be_had_of_it(kept, tmp_path):
    result = kept.call("run", "quick", "--scale", "0.1", "-o", "json", "-f", str(tmp_path / "again.zip"))
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["state"] == "done"
    assert {summary["probe"] for summary in document["summaries"]} == {"tcp_rr", "tcp_stream", "disk"}


def endpoint(machine: Machine, directory: Path) -> dict:
    found = json.loads((machine.runtime / "cvmprobe" / "endpoint.json").read_text())
    (directory / "ca.pem").write_text(found["ca_pem"])
    (directory / "token").write_text(found["token"])
    (directory / "wrong").write_text("wrong")
    return found


def test_flags_reach_it_too_and_a_wrong_token_or_address_is_one_line(kept, tmp_path):
    address = endpoint(kept, tmp_path)["address"]
    ca, token, wrong = str(tmp_path / "ca.pem"), str(tmp_path / "token"), str(tmp_path / "wrong")
    good = kept.call("get", "nodes", "--collector", address, "--ca-file", ca, "--token-file", token)
    assert good.returncode == 0, good.stderr
    denied = kept.call("get", "nodes", "--collector", address, "--ca-file", ca, "--token-file", wrong)
    assert (denied.returncode, denied.stdout) == (1, "")
    assert "refuses" in error_line(denied)
    nobody = kept.call("get", "nodes", "--collector", "127.0.0.1:1", "--ca-file", ca, "--token-file", token)
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "127.0.0.1:1" in error_line(nobody)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "slow", "--local"), 2, "there is no suite 'slow'"),
        (("run", "quick", "--local", "--scale", "7"), 2, "scale"),
        (("run", "quick", "--local", "-f", "/proc/x.zip"), 2, "cannot write /proc/x.zip"),
        (("run", "quick", "--local", "-f", "/nowhere/x.zip"), 2, "/nowhere is not a directory"),
        (("run", "quick", "--local", "--volume", "/nowhere"), 2, "--volume /nowhere is not a directory"),
        (("snapshot", "show", "none.zip"), 1, "none.zip"),
        (("snapshot", "show", "/proc/self/cmdline"), 1, "cmdline"),
        (("snapshot", "show", "/"), 1, "/"),
    ],
)
def test_bad_input_is_one_line(machine, arguments, code, message):
    result = machine.call(*arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.count("\n") == 1
    assert message in error_line(result)
    assert machine.left() == []
