"""What the doctor makes of a node's facts: sound or not, what is missing, and the page."""

import pytest

from cvmprobe.analysis.diagnosis import Weight, diagnose, examination_record, is_sound
from cvmprobe.model.environment import Confidence, Environment, Fact, TeeKind, TeeVerdict
from cvmprobe.node.page import page

TEE = TeeVerdict(TeeKind.SEV_SNP, True, 2, Confidence.HIGH, ("CPUID 0x8000001F EAX 0x1a: bit 4",))
GOOD = {
    "kernel": "6.12.1",
    "clock_cost_ns": "20",
    "clock_vdso": "yes",
    "clock_resolution_ns": "1",
    "clock_discipline": "synchronized, +1.000 ppm, at most 900 us off",
    "cpu_quota": "max 100000",
    "steal": "told",
    "pressure": "counted",
    "engine_io_uring": "available",
    "engine_libaio": "available",
    "engine_udp_gso": "available",
    "memory_lock_limit": "8388608",
    "timer_late_share": "0.0010",
    "timer_late_p50_ns": "60000",
    "timer_late_p99_ns": "200000",
    "pressure_now": "cpu 1 %, io 0 %, memory 0 %",
    "pressure_now_worst": "0.010",
    "throttled_now": "0",
    "volume_data_filesystem": "ext4",
    "volume_data_mount_options": "rw",
    "volume_data_stack": "dm-0 dm:CRYPT-LUKS2 > sda disk(virtio_scsi, scheduler none, solid)",
    "volume_data_direct_io": "available",
}


def node(**changes):
    return Environment(tuple(Fact(name, value, f"read {name}") for name, value in (GOOD | changes).items()), TEE)


def test_a_good_node_has_no_finding():
    assert diagnose(node()) == ()
    assert is_sound(diagnose(node()))
    assert "Measuring is sound here" in page("n1", node(), ())


UNSOUND = [
    ({"clock_cost_ns": "1500"}, "clock: one reading takes 1,500 ns"),
    ({"clock_resolution_ns": "4000000"}, "clock: it counts in steps of 4,000,000 ns"),
    ({"timer_late_share": "0.0101"}, "timer: 1.0% of the wakes"),
    ({"cpu_quota": "50000 100000"}, "cpu: its own cgroup may use 0.5 CPUs"),
    ({"cpu_quota_around": "20000 100000"}, "cpu: a group around it may use 0.2 CPUs"),
    ({"throttled_now": "3"}, "cpu: the quota stopped this process"),
    ({"volume_data_filesystem": "tmpfs"}, "volume data: tmpfs is memory"),
    ({"volume_data_filesystem": "overlay"}, "volume data: overlay is a container's own layer"),
    ({"volume_data_direct_io": "refused: open: EINVAL (errno 22)"}, "volume data: direct I/O is refused"),
]


@pytest.mark.parametrize(("changes", "told"), UNSOUND)
def test_what_would_bend_a_figure_is_unsound(changes, told):
    findings = diagnose(node(**changes))
    assert not is_sound(findings)
    assert told in f"{findings[0].subject}: {findings[0].what}"
    text = page("n1", node(**changes), findings)
    assert f"Measuring is NOT sound here: {told}" in text
    assert findings[0].cost in text


NOTES = [
    ({"clock_vdso": "no", "clock_cost_ns": "300"}, "each stamp costs 300 ns"),
    ({"clock_discipline": "not synchronized, +0.000 ppm"}, "may not line up"),
    ({"cpu_quota": "200000 100000"}, "stopped at the quota"),
    ({"engine_io_uring": "refused: io_uring_setup: EPERM (errno 1)"}, "disk probes use libaio"),
    ({"engine_udp_gso": "refused: setsockopt: EINVAL (errno 22)"}, "datagram by datagram"),
    ({"memory_lock_limit": "65536"}, "unregistered buffers"),
    ({"pressure_now_worst": "0.300"}, "flagged pressed"),
    ({"steal": None}, "looks like a slow node"),
    ({"pressure": None}, "not noticed before a lease"),
    ({"swiotlb_used_bytes": None}, "bounce buffers"),
    ({"cni_encryption": None}, "whether the CNI encrypts"),
    ({"volume_data_direct_io": None}, "disk probes fail there"),
]


@pytest.mark.parametrize(("changes", "cost"), NOTES)
def test_what_costs_something_is_a_note_and_measuring_stays_sound(changes, cost):
    (finding,) = diagnose(node(**changes))
    assert finding.weight is Weight.NOTE
    assert cost in finding.cost
    assert cost in page("n1", node(**changes), [finding])


def test_both_refused_leaves_threads():
    findings = diagnose(node(engine_io_uring="refused: x", engine_libaio="refused: y"))
    assert "threads" in findings[0].cost


def test_what_nobody_looked_for_is_no_finding_and_the_page_says_so():
    old = Environment((Fact("kernel", "5.10", "uname"),), TEE)
    assert diagnose(old) == ()
    assert "not tried: run the doctor on the node itself" in page("n1", old, ())


MEDIUM = TeeVerdict(TeeKind.TDX, None, None, Confidence.MEDIUM, ())
UNKNOWN = TeeVerdict(TeeKind.UNKNOWN, None, None, Confidence.LOW, ("CPUID 0x8000001F: the host's leaf",))
TORN = TeeVerdict(TeeKind.TDX, None, None, Confidence.LOW, ("against it: CPUID 0x0: 'AuthenticAMD' makes no tdx",))


@pytest.mark.parametrize(("tee", "told"), [(UNKNOWN, "does not tell the kind"), (TORN, "tdx on thin or contradictory")])
def test_a_verdict_that_does_not_hold_is_a_note(tee, told):
    (finding,) = diagnose(Environment(node().facts, tee))
    assert (finding.weight, finding.subject) == (Weight.NOTE, "TEE")
    assert told in finding.what
    assert "wrong pool" in finding.cost
    assert diagnose(Environment(node().facts, MEDIUM)) == ()


def test_facts_of_another_version_that_are_no_numbers_judge_nothing_and_break_nothing():
    numbers = ("clock_cost_ns", "clock_resolution_ns", "memory_lock_limit", "throttled_now", "pressure_now_worst")
    odd = node(**dict.fromkeys((*numbers, "timer_late_share", "timer_late_p50_ns"), "soon"), cpu_quota="1 0")
    assert diagnose(odd) == ()
    assert "wakes unknown us late (p50)" in page("n1", odd, ())


NETWORK = {
    "interface_bond0_mtu": "9000",
    "interface_bond0_state": "up",
    "interface_bond0_kind": "bond",
    "interface_bond0_carried_by": "eth0 eth1",
    "interface_eth2_mtu": "1500",
    "interface_eth2_state": "down",
    "interface_lo_mtu": "65536",
    "default_route": "none",
    "default_route_v6": "bond0 mtu 9000 (device)",
    "hypervisor": "none",
    "cpu_quota_around": "150000 100000",
    "capabilities": "0000000000000000",
}


def test_the_page_tells_the_network_as_it_is():
    text = page("n1", node(**NETWORK), ())
    assert "bond0          bond over eth0 eth1, driver unknown, MTU 9000" in text
    assert "down           eth2\n" in text
    assert "default route  none; IPv6: bond0 mtu 9000 (device)" in text
    assert "  lo " not in text


def test_the_page_puts_rights_and_quotas_into_words():
    text = page("n1", node(**NETWORK), ())
    assert "hypervisor     none shows itself" in text
    assert "CPU quota      none; of the groups around: 150000 of each 100000 us; stopped by it" in text
    assert "no capabilities" in text
    assert "stolen time    told (read steal)" in text
    assert "direct I/O available" in text
    assert "disks          unknown" in text


def test_what_was_only_told_and_not_tried_says_so():
    told = Environment(tuple(fact for fact in node().facts if fact.name != "volume_data_direct_io"), TEE)
    assert "direct I/O not tried: run the doctor on the node itself" in page("n1", told, ())


def test_the_worst_comes_first():
    findings = diagnose(node(clock_discipline="not synchronized, +0.000 ppm", cpu_quota="1000 100000"))
    assert [finding.weight for finding in findings] == [Weight.UNSOUND, Weight.NOTE]


def test_the_verdict_on_the_tee_is_told_with_its_evidence_and_never_as_proven():
    text = page("n1", node(), ())
    assert "sev-snp, confidence high, not attested; below a paravisor; VMPL 2" in text
    assert "- CPUID 0x8000001F EAX 0x1a: bit 4" in text
    assert "verified" not in text


def test_the_record_keeps_its_keys():
    """A program reads them: a key may come, none may go or change its name."""
    record = examination_record("n1", node(clock_cost_ns="9999"))
    assert list(record) == ["node", "sound", "findings", "environment"]
    assert list(record["findings"][0]) == ["weight", "subject", "what", "cost", "remedy"]
    assert list(record["environment"]) == ["tee", "facts"]
    assert list(record["environment"]["tee"]) == ["kind", "paravisor", "vmpl", "confidence", "attested", "evidence"]


def test_the_record_holds_all_of_it():
    record = examination_record("n1", node(clock_cost_ns="9999"))
    assert (record["node"], record["sound"]) == ("n1", False)
    assert record["findings"][0]["weight"] == "unsound"
    assert record["environment"]["facts"]["kernel"] == {"value": "6.12.1", "source": "read kernel"}
    assert record["environment"]["tee"]["attested"] is False


def test_an_unknown_fact_is_told_with_its_reason():
    assert "unknown (read cni)" in page("n1", node(cni=None), ())
