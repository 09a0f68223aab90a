"""One execution of the disk probe, from its parameters to its windows."""

import itertools
import os
import re
from pathlib import Path

import pytest

from cvmprobe.errors import EngineError, UnsoundError, UsageError
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.execution import Setup
from cvmprobe.probes.scratch import SHELF

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _empty_shelf():
    SHELF.clear()
    yield
    SHELF.clear()


def instance(**parameters):
    asked = {"file_bytes": 2 * MIB, **parameters}
    return Instance(
        assignment_id="0" * 32,
        probe=Probe.DISK,
        source=Endpoint("node", Role.POD),
        target=VolumeTarget("scratch"),
        direction=Direction.NONE,
        repeat=0,
        parameters={name: str(value) for name, value in asked.items()},
    )


def setup(volume, *, max_bytes=64 * MIB, duration_ms=200, raw_samples=False, **parameters):
    return Setup(instance(**parameters), 50, duration_ms, max_bytes, raw_samples, volume=volume)


def run(asked):
    execution = prepare(asked)
    seen = list(execution.observe())
    return seen, execution.result()


@pytest.mark.parametrize("engine", ["io_uring", "libaio", "threads", "sync"])
def test_windows_add_up_to_the_totals(disk_dir, engine):
    seen, result = run(setup(disk_dir, engine=engine, omit_ms=50, raw_samples=True))
    assert result.error is None
    assert len(seen) == len(result.windows)
    assert result.windows[0].phase is Phase.WARMUP
    assert Phase.STEADY in {window.phase for window in result.windows}
    for name in ("reads", "read_bytes", "short_transfers"):
        assert sum(window.counters[name] for window in result.windows) == result.totals[name]
    for name in ("total_ns", "submit_ns", "device_ns"):
        assert sum(window.histograms[name].count for window in result.windows) == result.totals["reads"] > 0
    rows = sum(len(block.rows) // 16 + block.lost for block in result.samples)
    assert rows == result.totals["reads"]
    assert {window.facts["engine"] for window in result.windows} == {engine}
    assert "fallback" not in result.windows[0].facts
    assert all(Flag.DEGRADED not in window.flags for window in result.windows)


def test_a_second_execution_uses_the_same_file(disk_dir):
    totals = [run(setup(disk_dir, mode=mode))[1].totals for mode in ("randread", "randwrite")]
    assert [total["fill_bytes"] for total in totals] == [2 * MIB, 0]
    assert totals[1]["writes"] > 0
    assert list(disk_dir.iterdir()) == []


def test_the_write_budget_ends_the_measurement_to_the_byte(disk_dir):
    _, result = run(setup(disk_dir, mode="randwrite", max_bytes=3 * MIB, duration_ms=60_000))
    assert result.error is None
    assert result.totals["write_bytes"] + result.totals["fill_bytes"] == 3 * MIB


def test_a_budget_that_the_file_uses_up_is_refused(disk_dir):
    seen, result = run(setup(disk_dir, mode="randwrite", max_bytes=2 * MIB))
    assert seen == []
    assert isinstance(result.error, UsageError)
    assert "used up the 2097152 bytes" in str(result.error)


def test_a_stop_cuts_what_is_there(disk_dir):
    execution = prepare(setup(disk_dir, duration_ms=60_000))
    windows = []
    for window in execution.observe():
        windows.append(window)
        if len(windows) == 2:
            execution.stop()
    result = execution.result()
    assert result.error is None
    assert Flag.CUT in result.windows[-1].flags
    assert sum(window.counters["reads"] for window in windows) == result.totals["reads"]


def test_a_stop_before_the_start_measures_nothing(disk_dir):
    execution = prepare(setup(disk_dir))
    execution.stop()
    assert list(execution.observe()) == []
    assert "stopped on request" in str(execution.result().error)


def test_an_execution_without_an_end_runs_until_stopped(disk_dir):
    execution = prepare(setup(disk_dir, duration_ms=None))
    windows = list(itertools.islice(execution.observe(), 3))
    execution.stop()
    assert all(window.counters["reads"] > 0 for window in windows)


def test_the_scratch_file_outlives_an_engine_that_cannot_be_armed(disk_dir, monkeypatch):
    monkeypatch.setattr("os.O_DIRECT", 0)  # the file is made without direct I/O, so the engine refuses
    seen, result = run(setup(disk_dir))
    assert seen == []
    assert result.error is not None
    assert SHELF.take(disk_dir, 2 * MIB) is not None


def test_a_volume_that_takes_no_file_is_one_clear_line():
    _, result = run(setup(Path("/proc"), any_filesystem="true"))
    assert isinstance(result.error, EngineError | UsageError)
    assert "/proc" in str(result.error)
    assert "\n" not in str(result.error)


def test_a_directory_that_vanishes_meanwhile_costs_no_result(disk_dir):
    volume = disk_dir / "volume"
    volume.mkdir()
    execution = prepare(setup(volume, workers=2))
    for _ in execution.observe():
        if volume.exists():
            volume.rmdir()
    assert not volume.exists()
    assert execution.result().totals["reads"] > 0
    assert execution.result().error is None


def test_a_log_says_what_etcd_would_think_of_it(disk_dir):
    _, result = run(setup(disk_dir, mode="wal", file_bytes=8 * MIB))
    assert result.error is None
    totals = result.totals
    assert totals["write_bytes"] == totals["writes"] * 2300 > 0
    assert totals["syncs"] in (totals["writes"], totals["writes"] - 1)
    assert totals["fill_bytes"] == 0
    said = result.windows[-1].facts
    assert said["engine"] == "sync"
    assert said["etcd_advice"].startswith(("kept: ", "not kept: "))
    assert SHELF.take(disk_dir, 8 * MIB) is None  # what was appended to is no new log


def test_four_workers_with_a_mix_and_syncs_add_up(disk_dir):
    asked = {"mode": "randrw", "read_percent": 70, "workers": 4, "depth": 4, "fdatasync": 16}
    _, result = run(setup(disk_dir, max_bytes=256 * MIB, **asked))
    assert result.error is None
    totals = result.totals
    assert totals["fill_bytes"] == 4 * 2 * MIB
    for name in ("reads", "writes", "syncs"):
        assert sum(window.counters[name] for window in result.windows) == totals[name] > 0
    counts = [
        sum(window.histograms[name].count for window in result.windows)
        for name in ("total_ns", "read_total_ns", "write_total_ns", "sync_ns")
    ]
    assert counts == [totals["reads"] + totals["writes"], totals["reads"], totals["writes"], totals["syncs"]]
    assert list(disk_dir.iterdir()) == []


def test_verifying_lays_headers_first_and_finds_nothing_wrong(disk_dir):
    _, result = run(setup(disk_dir, mode="randrw", verify="true"))
    assert result.error is None
    assert result.totals["fill_bytes"] == 2 * 2 * MIB
    assert [result.totals[name] for name in ("corrupt_blocks", "misplaced_blocks", "stale_blocks")] == [0, 0, 0]


def test_wrong_data_is_an_error_that_names_it(disk_dir):
    execution = prepare(setup(disk_dir, verify="true", duration_ms=10_000))
    windows = execution.observe()
    next(windows)
    (fd,) = [file.fd for file in execution._face._files]  # the file has no name to open it by
    plain = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    os.pwrite(plain, bytes(4096), 5 * 4096)
    os.fsync(plain)
    os.close(plain)
    for window in windows:
        if window.counters["corrupt_blocks"]:
            execution.stop()
    result = execution.result()
    assert isinstance(result.error, UnsoundError)
    assert re.search(r"reads returned \d+ corrupt blocks, the first at byte 20480", str(result.error))
    assert all(Flag.CUT in window.flags for window in result.windows)


def test_an_open_loop_says_what_is_late(disk_dir):
    _, result = run(setup(disk_dir, rate_per_s=200, duration_ms=500))
    assert result.error is None
    assert result.totals["reads"] + result.totals["unstarted_operations"] == 100
    assert {"late_operations", "unstarted_operations"} <= result.totals.keys()
    assert all(Flag.LITTLE not in window.flags for window in result.windows)


def test_the_block_device_counts_at_least_what_we_read(disk_dir):
    _, result = run(setup(disk_dir))
    if "block_reads" not in result.totals:
        pytest.skip("the kernel names no block device under this directory")
    assert result.totals["block_read_bytes"] >= result.totals["read_bytes"] - 32 * 4096
    assert result.totals["block_reads"] > 0
    assert result.windows[0].facts["block_device"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"block_bytes": MIB, "depth": 1024}, "depth 1024 x block_bytes 1048576 needs more than"),
        ({"verify": "true", "depth": 512}, "too small to verify 512 operations"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_before_anything_is_written(disk_dir, monkeypatch, asked, message):
    monkeypatch.setattr("cvmprobe.probes.disk.prepare", None)
    _, result = run(setup(disk_dir, **asked))
    assert isinstance(result.error, UsageError)
    assert re.search(message, str(result.error))
