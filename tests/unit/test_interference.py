"""What disturbed a window: starved, late, throttled; and nothing where nothing is known."""

import pytest

from cvmprobe.model.window import Flag
from cvmprobe.probes.interference import Throttle, flags_of

MS = 1_000_000


def flags(counters, threads=1):
    return flags_of(counters, duration_ns=100 * MS, threads=threads, operations=("reads", "writes"))


def test_threads_that_waited_for_a_cpu_are_starved():
    assert flags({"run_delay_ns": 5 * MS}) == set()
    assert flags({"run_delay_ns": 5 * MS + 1}) == {Flag.STARVED}
    assert flags({"run_delay_ns": 5 * MS + 1}, threads=2) == set()


def test_operations_that_started_late_are_counted_against_all():
    assert flags({"late_operations": 1, "reads": 60, "writes": 40}) == set()
    assert flags({"late_operations": 2, "reads": 60, "writes": 40}) == {Flag.LATE}
    assert flags({"late_operations": 1}) == {Flag.LATE}


def test_what_is_unknown_raises_no_flag():
    assert flags({}) == set()


V2, V1 = "0::/pod/agent\n", "4:memory:/x\n3:cpu,cpuacct:/pod\n0::/\n"


def machine(root, groups, stat, count):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "sys/fs/cgroup" / stat).parent.mkdir(parents=True)
    (root / "sys/fs/cgroup" / stat).write_text(f"nr_periods 90\nnr_throttled {count}\nthrottled_usec 5\n")
    return root / "sys/fs/cgroup" / stat


@pytest.mark.parametrize(
    ("groups", "stat"),
    [
        (V2, "pod/agent/cpu.stat"),
        (V2, "cpu.stat"),  # a container sees its own group as the root
        (V1, "cpu,cpuacct/pod/cpu.stat"),
        (V1, "cpu/pod/cpu.stat"),
        (V1, "cpu,cpuacct/cpu.stat"),
        ("1:cpu:/\n0::/\n", "cpu/cpu.stat"),
    ],
)
def test_throttling_is_found_in_either_kind_of_cgroup(tmp_path, groups, stat):
    file = machine(tmp_path, groups, stat, 3)
    throttle = Throttle(tmp_path)
    assert throttle.count() == 3
    assert not throttle.rose()
    file.write_text("nr_periods 91\nnr_throttled 4\n")
    assert throttle.rose()
    assert not throttle.rose()


def test_without_a_quota_the_count_is_unknown(tmp_path):
    throttle = Throttle(tmp_path)
    assert throttle.count() is None
    assert not throttle.rose()


def test_a_file_that_vanishes_is_no_rise(tmp_path):
    file = machine(tmp_path, V2, "cpu.stat", 3)
    throttle = Throttle(tmp_path)
    file.unlink()
    assert throttle.count() is None
    assert not throttle.rose()
