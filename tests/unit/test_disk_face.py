"""What can be asked of the disk probe, what it may cost, and Little's law as its check on itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from cvmprobe.errors import UsageError
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe, Window
from cvmprobe.probes.catalog import CATALOG, prepare
from cvmprobe.probes.disk import _flag_failures, _judge_log
from cvmprobe.probes.disk_parameters import read_load
from cvmprobe.probes.execution import Setup
from cvmprobe.probes.little import judge_in_flight

MIB = 1 << 20
DEPTH = 4
INSTANCE = Instance("0" * 32, Probe.DISK, Endpoint("n", Role.POD), VolumeTarget("v"), Direction.NONE, 0)


def window(in_flight, *, operations=1000, phase=Phase.STEADY):
    """One second in which ``in_flight`` operations were in flight on average."""
    spent = Histogram(buckets={5000: operations}, sum=int(in_flight * 1e9))
    return Window(INSTANCE, 1, 10**9, phase, histograms={"total_ns": spent})


def flagged(windows, depth=DEPTH):
    return [Flag.LITTLE in judged.flags for judged in judge_in_flight(tuple(windows), ("total_ns", "sync_ns"), depth)]


@pytest.mark.parametrize(("in_flight", "bad"), [(4, False), (3.97, False), (4.03, False), (3.95, True), (4.05, True)])
def test_a_depth_missed_by_over_one_percent_is_flagged(in_flight, bad):
    assert flagged([window(in_flight)]) == [bad]


def test_the_execution_is_judged_as_a_whole():
    assert flagged([window(3.8), window(4.2)]) == [False, False]
    assert flagged([window(4), window(3)]) == [True, True]


def test_warm_up_and_drain_neither_count_nor_are_flagged():
    windows = [window(1, phase=Phase.WARMUP), window(3), window(1, phase=Phase.DRAIN)]
    assert flagged(windows) == [False, True, False]
    assert flagged([window(1, phase=Phase.WARMUP), window(4)]) == [False, False]


def test_few_operations_and_depth_one_are_not_judged():
    assert flagged([window(3, operations=399)]) == [False]
    assert flagged([window(3, operations=400)]) == [True]
    assert flagged([window(0.5)], depth=1) == [False]


def test_nothing_measured_is_not_judged():
    assert judge_in_flight((), ("total_ns",), DEPTH) == ()


def setup(volume, **parameters):
    asked = {name: str(value) for name, value in parameters.items()}
    return Setup(replace(INSTANCE, parameters=asked), 50, 200, 64 * MIB, volume=volume)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mode": "trim"}, "parameter mode = 'trim'"),
        ({"depth": 0}, "parameter depth = '0'"),
        ({"blocks": 4096}, "no parameter 'blocks'"),
        ({"block_bytes": 3000}, "parameter block_bytes = 3000"),
        ({"file_bytes": MIB + 512}, "parameter file_bytes = 1049088"),
        ({"omit_ms": 70}, "parameter omit_ms = 70.*interval, 50 ms"),
        ({"engine": "posixaio"}, "parameter engine = 'posixaio'"),
        ({"read_percent": 70}, "read_percent = 70: only for randrw, rw"),
        ({"mode": "randrw", "read_percent": 100}, "parameter read_percent = '100'"),
        ({"mode": "write", "fsync": 1, "fdatasync": 2}, "give one of them"),
        ({"fdatasync": 2}, "randread writes nothing"),
        ({"mode": "wal", "depth": 8}, "depth = 8: wal"),
        ({"mode": "wal", "verify": "true"}, "wal reads nothing back"),
    ],
)
def test_a_bad_parameter_is_named(parameters, message):
    with pytest.raises(UsageError, match=message):
        prepare(setup(Path("/"), **parameters))


def test_a_volume_is_needed():
    with pytest.raises(UsageError, match="no volume"):
        prepare(setup(None))


def test_cost_bounds_what_is_written():
    cost = CATALOG[Probe.DISK].cost
    reading = cost({"mode": "randread", "file_bytes": str(64 * MIB)}, 5000)
    writing = cost({"mode": "randwrite", "file_bytes": str(64 * MIB)}, 5000)
    assert (reading.disk_write_bytes, reading.network_bytes) == (64 * MIB, 0)
    assert writing.disk_write_bytes == 64 * MIB + 10_000_000_000
    assert reading.seconds > 5


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"mode": "wal"}, 64 * MIB),
        ({"workers": 4}, 4 * 64 * MIB),
        ({"verify": "true", "workers": 2}, 4 * 64 * MIB),
        ({"mode": "randrw", "read_percent": 70}, 64 * MIB + 3_000_000_000),
        ({"mode": "randwrite", "rate_per_s": 100}, 64 * MIB + 500 * 4096),
    ],
)
def test_cost_knows_files_headers_mixes_and_rates(asked, most):
    asked = {name: str(value) for name, value in asked.items()}
    assert CATALOG[Probe.DISK].cost({"file_bytes": str(64 * MIB), **asked}, 5000).disk_write_bytes == pytest.approx(
        most
    )


def test_a_log_is_what_etcd_does():
    load = read_load({"mode": "wal"})
    assert (load.block_bytes, load.depth, load.engine, load.sync_every, load.data_only) == (2300, 1, "sync", 1, True)


def log_window(syncs, slow, phase=Phase.STEADY):
    return Window(INSTANCE, 1, 10**9, phase, counters={"syncs": syncs, "slow_syncs": slow})


def test_a_log_says_whether_etcds_advice_is_kept():
    kept = _judge_log((log_window(100, 1), log_window(100, 1)))
    assert {window.facts["etcd_advice"] for window in kept} == {
        "kept: 2 of 200 syncs took over 10 ms, and 1 in 100 may"
    }
    missed = _judge_log((log_window(100, 2), log_window(100, 1)))
    assert missed[0].facts["etcd_advice"].startswith("not kept: 3 of 200")
    few = [_judge_log((log_window(99, slow),))[0].facts["etcd_advice"] for slow in (0, 1, 2)]
    assert [said.split(":")[0] for said in few] == ["undecided", "undecided", "not kept"]
    assert "etcd_advice" not in _judge_log((log_window(9, 9, Phase.WARMUP),))[0].facts


def test_windows_with_failed_operations_are_flagged():
    bad = replace(window(4), counters={"io_errors": 1})
    good = replace(window(4), counters={"io_errors": 0})
    assert [Flag.ERROR in judged.flags for judged in _flag_failures((bad, good))] == [True, False]
