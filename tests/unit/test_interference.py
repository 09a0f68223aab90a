"""What disturbed a window: starved, late, throttled, stolen; and nothing where nothing is known."""

import pytest

from cvmprobe.errors import RefusedError
from cvmprobe.model.window import INTERFERENCE, Flag
from cvmprobe.probes.interference import Interference, admit, flags_of, pressure_fact, pressure_shares
from cvmprobe.probes.steal import steal_source

MS = 1_000_000
VIRTUAL = (0, 0, 1 << 31, 0)


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


def make(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def machine(root, groups, stat, count, time="throttled_usec 5"):
    stat = f"sys/fs/cgroup/{stat}"
    make(root, {"proc/self/cgroup": groups, stat: f"nr_periods 90\nnr_throttled {count}\n{time}\n"})
    return root / stat


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
    seen = Interference(tmp_path)
    assert seen.counters() == {"throttled_periods": 0, "throttled_ns": 0}
    file.write_text("nr_periods 91\nnr_throttled 4\nthrottled_usec 25\n")
    assert seen.counters() == {"throttled_periods": 1, "throttled_ns": 20_000}
    assert seen.counters()["throttled_periods"] == 0


def test_the_quota_of_a_group_around_ours_counts_too(tmp_path):
    machine(tmp_path, V2, "pod/agent/cpu.stat", 0)
    file = machine(tmp_path, V2, "pod/cpu.stat", 3)
    seen = Interference(tmp_path)
    file.write_text("nr_throttled 5\nthrottled_usec 6\n")
    assert seen.counters() == {"throttled_periods": 2, "throttled_ns": 1_000}


def test_the_older_cgroup_counts_in_nanoseconds(tmp_path):
    file = machine(tmp_path, V1, "cpu/pod/cpu.stat", 0, "throttled_time 7")
    seen = Interference(tmp_path)
    file.write_text("nr_throttled 1\nthrottled_time 9\n")
    assert seen.counters() == {"throttled_periods": 1, "throttled_ns": 2}


def test_a_machine_without_files_counts_nothing(tmp_path):
    assert Interference(tmp_path).counters() == {}


def test_a_file_that_vanishes_is_unknown_from_then_on(tmp_path):
    file = machine(tmp_path, V2, "cpu.stat", 3)
    seen = Interference(tmp_path)
    file.unlink()
    assert seen.counters() == {}


def psi(total_us):
    return f"some avg10=1.00 avg60=0.00 avg300=0.00 total={total_us}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"


def test_pressure_is_the_time_in_which_somebody_waited(tmp_path):
    make(tmp_path, {f"proc/pressure/{name}": psi(100) for name in ("cpu", "io", "memory")})
    seen = Interference(tmp_path)
    make(tmp_path, {"proc/pressure/io": psi(30_100)})
    counters = seen.counters()
    assert counters == {"cpu_pressure_ns": 0, "io_pressure_ns": 30 * MS, "memory_pressure_ns": 0}
    shares = pressure_shares(counters, 100 * MS)
    assert pressure_fact(shares) == "cpu 0 %, io 30 %, memory 0 %"
    admit(shares, 0.3)
    with pytest.raises(RefusedError, match="waited for io 30%"):
        admit(shares, 0.29)


def test_every_counter_is_known_to_whoever_shows_windows(tmp_path):
    machine(tmp_path, V2, "cpu.stat", 3)
    make(tmp_path, {"proc/stat": STOLEN} | {f"proc/pressure/{name}": psi(1) for name in ("cpu", "io", "memory")})
    assert set(Interference(tmp_path).counters()) == set(INTERFERENCE)


def test_pressure_that_the_kernel_does_not_count_is_absent(tmp_path):
    make(tmp_path, {"proc/pressure/cpu": psi(5), "proc/pressure/io": "\n"})
    counters = Interference(tmp_path).counters()
    assert counters == {"cpu_pressure_ns": 0}
    assert pressure_shares(counters, 1) == {"cpu": 0.0}
    assert pressure_shares({}, 1) == {}


def words(name):
    return [int.from_bytes(name[i : i + 4].encode(), "little") for i in (0, 4, 8)]


def cpuid(name, features=0):
    leaves = {1: VIRTUAL, 0x40000000: (0x40000001, *words(name)), 0x40000001: (features, 0, 0, 0)}
    return lambda number: leaves.get(number, (0, 0, 0, 0))


QUIET, STOLEN = "cpu  1 2 3 4 5 6 7 0 0 0\n", "cpu  1 2 3 4 5 6 7 8 0 0\n"


@pytest.mark.parametrize(
    ("leaf", "stat", "known"),
    [
        (cpuid("KVMKVMKVM\0\0\0", 1 << 5), QUIET, True),
        (cpuid("KVMKVMKVM\0\0\0"), QUIET, False),
        (cpuid("KVMKVMKVM\0\0\0"), STOLEN, True),
        (cpuid("XenVMMXenVMM"), QUIET, True),
        (cpuid("Microsoft Hv", 1 << 5), QUIET, False),
        (lambda number: (0, 0, 0, 0), QUIET, False),  # bare metal
        (lambda number: None, QUIET, False),  # no CPUID
        (lambda number: None, STOLEN, True),
    ],
)
def test_steal_is_known_only_where_somebody_tells_it(tmp_path, leaf, stat, known):
    make(tmp_path, {"proc/stat": stat})
    assert (steal_source(tmp_path, leaf) is not None) is known


def test_a_kernel_told_not_to_count_steal_does_not(tmp_path):
    make(tmp_path, {"proc/cmdline": "quiet no-steal-acc\n", "proc/stat": STOLEN})
    assert steal_source(tmp_path, cpuid("KVMKVMKVM\0\0\0", 1 << 5)) is None


def test_stolen_time_is_counted_in_nanoseconds(tmp_path):
    make(tmp_path, {"proc/stat": STOLEN})
    seen = Interference(tmp_path)
    make(tmp_path, {"proc/stat": STOLEN.replace(" 8 ", " 10 ")})
    assert seen.counters() == {"steal_ns": 20 * MS}
