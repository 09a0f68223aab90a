"""Facts of this machine, and of machines made of files."""

import os

from cvmprobe.model.environment import TeeKind
from cvmprobe.native import cpuid
from cvmprobe.probes.clock import clock_pair
from cvmprobe.probes.environment import environment


def test_this_machine_is_described_with_a_source_for_each_fact():
    found = environment()
    assert found.value("kernel") == os.uname().release
    assert int(found.value("clock_cost_ns")) > 0
    names = [fact.name for fact in found.facts]
    assert len(names) == len(set(names))
    assert all(fact.source for fact in found.facts)
    assert all(fact.value is None or isinstance(fact.value, str) for fact in found.facts)


def test_a_machine_without_files_has_unknown_facts_not_empty_ones(tmp_path):
    found = environment(tmp_path)
    for name in ("boot_id", "clocksource", "cpu_model", "kernel_options", "cpu_quota", "seccomp_mode", "os"):
        fact = next(fact for fact in found.facts if fact.name == name)
        assert fact.value is None
        assert "No such file" in fact.source or "no cpu.stat" in fact.source


def make(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_only_options_that_change_a_figure_are_taken_from_the_command_line(tmp_path):
    make(tmp_path, {"proc/cmdline": "root=/dev/x secret=1 nosmt idle=poll constel.csp=azure mitigations=off\n"})
    assert environment(tmp_path).value("kernel_options") == "nosmt idle=poll constel.csp=azure mitigations=off"


def test_the_disk_stack_tells_the_kind_of_a_mapping_and_not_the_volume(tmp_path):
    make(
        tmp_path,
        {
            "sys/block/dm-0/dm/uuid": "CRYPT-LUKS2-0123456789abcdef-state\n",
            "sys/block/dm-0/dm/name": "state\n",
            "sys/block/dm-0/queue/scheduler": "[none]\n",
            "sys/block/dm-0/queue/rotational": "0\n",
            "sys/block/dm-0/slaves/sda": "",
            "sys/block/loop0/queue/scheduler": "[none]\n",
        },
    )
    found = environment(tmp_path)
    assert found.value("disk_dm-0_dm_type") == "CRYPT-LUKS2"
    assert found.value("disk_dm-0_slaves") == "sda"
    assert not [fact for fact in found.facts if "0123456789" in str(fact.value) or "loop0" in fact.name]


def test_the_cpu_quota_reads_alike_in_both_kinds_of_cgroup(tmp_path):
    v1, v2 = tmp_path / "v1", tmp_path / "v2"
    make(
        v1,
        {
            "proc/self/cgroup": "2:cpu:/pod\n",
            "sys/fs/cgroup/cpu/pod/cpu.stat": "nr_throttled 4\n",
            "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000\n",
        },
    )
    make(
        v2,
        {
            "proc/self/cgroup": "0::/pod\n",
            "sys/fs/cgroup/cpu.stat": "nr_throttled 4\n",
            "sys/fs/cgroup/cpu.max": "50000 100000\n",
        },
    )
    for root in (v1, v2):
        found = environment(root)
        assert (found.value("cpu_quota"), found.value("cpu_throttled_periods")) == ("50000 100000", "4")


def test_a_guest_device_reaches_the_verdict(tmp_path):
    make(tmp_path, {"dev/sev-guest": "", "sys/devices/system/cpu/sev/vmpl": "2\n"})
    verdict = environment(tmp_path).tee
    assert verdict.kind is not TeeKind.NONE
    assert verdict.vmpl == 2
    assert "/dev/sev-guest exists" in verdict.evidence


def test_cpuid_answers_here_or_says_that_there_is_none():
    leaf = cpuid.leaf(0)
    if os.uname().machine != "x86_64":
        assert leaf is None
        return
    highest, *name = leaf
    assert highest >= 1
    vendor = b"".join(name[i].to_bytes(4, "little") for i in (0, 2, 1)).decode()
    assert vendor in ("GenuineIntel", "AuthenticAMD", "HygonGenuine")


def test_a_clock_pair_lies_between_the_readings_around_it():
    first, second = clock_pair(), clock_pair()
    assert 0 < first.monotonic_ns < second.monotonic_ns
    assert first.unix_ns > 1_700_000_000 * 10**9
