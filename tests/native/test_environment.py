"""Facts of this machine, and of machines made of files."""

import os
import socket
import struct
from pathlib import Path

import psutil
import pytest

from cvmprobe.model.environment import Confidence, TeeKind
from cvmprobe.native import cpuid
from cvmprobe.probes.clock import clock_pair
from cvmprobe.probes.environment import environment
from cvmprobe.probes.facts.netlink import Link, Route, dump_links, parse_links, parse_routes
from cvmprobe.probes.facts.network import cni, network, routes


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return environment(volumes={"work": tmp_path_factory.mktemp("volume")})


def test_this_machine_is_described_with_a_source_for_each_fact(here):
    assert here.value("kernel") == os.uname().release
    assert int(here.value("clock_cost_ns")) > 0
    names = [fact.name for fact in here.facts]
    assert len(names) == len(set(names))
    assert all(fact.source for fact in here.facts)
    assert all(fact.value is None or fact.value for fact in here.facts), "an empty fact"


def test_no_address_is_told(here):
    told = " ".join(f"{fact.value} {fact.source}" for fact in here.facts)
    addresses = {found.address.partition("%")[0] for device in psutil.net_if_addrs().values() for found in device}
    own = addresses - {"127.0.0.1", "::1", "00:00:00:00:00:00"}
    assert not [address for address in own if address in told]


def test_what_the_engines_may_use_was_tried(here):
    for name in ("engine_io_uring", "engine_libaio", "engine_udp_gso", "engine_udp_gro"):
        assert here.value(name) == "available" or here.value(name).startswith("refused: ")


def test_the_volume_is_told_with_its_file_system(here):
    assert here.value("volume_work_filesystem")
    assert "rw" in here.value("volume_work_mount_options").split(",")


def test_a_machine_without_files_has_unknown_facts_not_empty_ones(tmp_path):
    found = environment(tmp_path, {"data": tmp_path})
    unknown = {fact.name: fact.source for fact in found.facts if fact.value is None}
    for name in ("boot_id", "clocksource", "cpu_model", "kernel_options", "seccomp_mode", "os", "numa_nodes"):
        assert "No such file" in unknown[name]
    assert "no cpu.stat" in unknown["cpu_quota"]
    assert "not this machine" in unknown["default_route"]
    assert "nothing is mounted" in unknown["volume_data_stack"]
    assert "may not be read" in unknown["swiotlb_boot"]


def make(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_only_options_that_change_a_figure_are_taken_from_the_command_line(tmp_path):
    make(tmp_path, {"proc/cmdline": "root=/dev/x secret=1 nosmt idle=poll constel.csp=azure mitigations=off\n"})
    assert environment(tmp_path).value("kernel_options") == "nosmt idle=poll constel.csp=azure mitigations=off"
    make(tmp_path, {"proc/cmdline": "nopti ip=10.0.0.1 spectre_v2=off intel_idle.max_cstate=0 psi=1\n"})
    told = environment(tmp_path).value("kernel_options")
    assert told == "nopti spectre_v2=off intel_idle.max_cstate=0 psi=1"


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


def test_the_tightest_quota_around_ours_is_told(tmp_path):
    quotas = {"": "max 100000", "pods": "400000 100000", "pods/pod": "150000 100000", "pods/pod/agent": "max 100000"}
    make(tmp_path, {"proc/self/cgroup": "0::/pods/pod/agent\n"})
    for group, quota in quotas.items():
        make(tmp_path, {f"sys/fs/cgroup/{group}/cpu.max": f"{quota}\n"})
        make(tmp_path, {f"sys/fs/cgroup/{group}/cpu.stat": "nr_throttled 1\n"})
    found = environment(tmp_path)
    assert (found.value("cpu_quota"), found.value("cpu_quota_around")) == ("max 100000", "150000 100000")
    assert found.value("cpu_throttled_periods") == "4"


@pytest.mark.parametrize(
    ("groups", "limit"),
    [
        ("0::/pods/agent\n", "pods/agent/memory.max"),
        ("0::/pods/agent\n", "memory.max"),  # a container sees its own group as the root
        ("5:memory:/pods/agent\n0::/\n", "memory/pods/agent/memory.limit_in_bytes"),
        ("5:memory:/pods/agent\n0::/\n", "memory/memory.limit_in_bytes"),
    ],
)
def test_the_memory_limit_is_that_of_our_own_group(tmp_path, groups, limit):
    make(tmp_path, {"proc/self/cgroup": groups, f"sys/fs/cgroup/{limit}": "1073741824\n"})
    found = {fact.name: fact for fact in environment(tmp_path).facts}
    assert found["memory_limit"].value == "1073741824"
    assert found["memory_limit"].source.endswith(limit)


def test_a_processor_without_a_name_is_told_by_its_numbers(tmp_path):
    make(tmp_path, {"proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"})
    assert environment(tmp_path).value("cpu_model") == "implementer 0x41, part 0xd40"


def test_vulnerabilities_that_cannot_be_read_are_unknown_not_none(tmp_path):
    found = {fact.name: fact for fact in environment(tmp_path).facts}
    assert found["vulnerabilities"].value is None
    assert "cannot be read" in found["vulnerabilities"].source


CRYPTED = {
    "proc/self/mountinfo": "20 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n"
    "31 20 253:0 / /data\\040disk rw,noatime - xfs /dev/mapper/x rw,attr2,addr=10.0.0.9,logbufs=8,discard\n",
    "sys/devices/virtual/block/dm-0/dm/uuid": "CRYPT-LUKS2-0123456789abcdef-x\n",
    "sys/devices/virtual/block/dm-0/slaves/dm-1": "",
    "sys/devices/virtual/block/dm-1/dm/uuid": "CRYPT-INTEGRITY-0123456789abcdef-x_dif\n",
    "sys/devices/virtual/block/dm-1/slaves/vdb1": "",
    "sys/devices/pci0/block/vdb/queue/scheduler": "none [mq-deadline]\n",
    "sys/devices/pci0/block/vdb/queue/rotational": "0\n",
    "sys/devices/pci0/block/vdb/vdb1/partition": "1\n",
}
DEVICES = {"dm-0": "virtual/block/dm-0", "dm-1": "virtual/block/dm-1", "vdb1": "pci0/block/vdb/vdb1"}


def test_the_stack_below_a_volume_is_followed_to_the_disk(tmp_path):
    make(tmp_path, CRYPTED)
    for folder in ("sys/class/block", "sys/dev/block"):
        (tmp_path / folder).mkdir(parents=True)
    for name, path in DEVICES.items():
        (tmp_path / "sys/class/block" / name).symlink_to(tmp_path / "sys/devices" / path)
    (tmp_path / "sys/dev/block/253:0").symlink_to(tmp_path / "sys/devices/virtual/block/dm-0")
    found = environment(tmp_path, {"v": "/data disk/scratch"})
    disk = "disk(no driver, scheduler mq-deadline, solid)"
    assert (
        found.value("volume_v_stack") == f"dm-0 dm:CRYPT-LUKS2 > dm-1 dm:CRYPT-INTEGRITY > vdb1 partition > vdb {disk}"
    )
    kinds = f"xfs rw,noatime,attr2,discard > dm:CRYPT-LUKS2 > dm:CRYPT-INTEGRITY > partition > {disk}"
    assert found.value("volume_v_fingerprint") == kinds
    assert not [fact for fact in found.facts if "0123456789" in str(fact.value) or "10.0.0.9" in str(fact.value)]


def test_a_logical_volume_does_not_tell_its_id(tmp_path):
    make(tmp_path, {"sys/block/dm-3/dm/uuid": "LVM-SecretIdOfTheVolume\n", "sys/block/dm-3/queue/rotational": "0\n"})
    assert environment(tmp_path).value("disk_dm-3_dm_type") == "LVM"


def test_bounce_buffers_are_told_from_debugfs_and_the_log(tmp_path):
    make(
        tmp_path,
        {
            "sys/kernel/debug/swiotlb/io_tlb_nslabs": "32768\n",
            "sys/kernel/debug/swiotlb/io_tlb_used": "12\n",
            "dev/kmsg": "6,1,0,-;booting\n6,2,5,-;software IO TLB: mapped [mem 0x0-0x4000000] (64MB)\n",
        },
    )
    found = environment(tmp_path)
    assert (found.value("swiotlb_bytes"), found.value("swiotlb_used_bytes")) == (str(64 << 20), str(12 * 2048))
    assert found.value("swiotlb_boot") == "mapped [mem 0x0-0x4000000] (64MB)"


def test_the_kernels_words_reach_the_verdict(tmp_path):
    make(tmp_path, {"dev/kmsg": "6,1,0,-;Memory Encryption Features active: Intel TDX\n"})
    verdict = environment(tmp_path).tee
    assert verdict.kind is not TeeKind.NONE
    assert "kernel log" in " ".join(verdict.evidence)


def test_a_guest_device_reaches_the_verdict(tmp_path):
    make(tmp_path, {"dev/sev-guest": "", "sys/devices/system/cpu/sev/vmpl": "2\n"})
    verdict = environment(tmp_path).tee
    assert verdict.kind is not TeeKind.NONE
    assert verdict.vmpl == 2
    assert "/dev/sev-guest exists" in verdict.evidence


def test_a_register_that_may_be_read_reaches_the_verdict(tmp_path):
    make(tmp_path, {"dev/cpu/0/msr": ""})
    with (tmp_path / "dev/cpu/0/msr").open("r+b") as registers:
        registers.seek(0xC0010131)
        registers.write(struct.pack("<Q", 0x7))
    assert "MSR 0xC0010131 0x7: bit 2" in environment(tmp_path).tee.evidence


def test_this_machine_is_no_confidential_vm_or_says_why(here):
    """Nothing that a test runs on today is one; where this changes, the evidence has to carry it."""
    assert here.tee.kind is TeeKind.NONE or here.tee.confidence is not Confidence.LOW
    assert here.tee.attested is False


def attribute(kind, value):
    packed = struct.pack("=HH", 4 + len(value), kind) + value
    return packed + bytes(-len(packed) % 4)


def message(kind, body):
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def test_links_are_read_from_the_kernels_answer():
    body = struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attribute(3, b"cilium_wg0\0") + attribute(4, struct.pack("=I", 1420))
    body += attribute(6, b"noqueue\0") + attribute(18 | 0x8000, attribute(1, b"wireguard\0"))
    dump = message(16, body) + message(3, bytes(4))
    assert list(parse_links(dump)) == [Link(7, "cilium_wg0", 1420, "noqueue", "wireguard", loopback=False)]
    assert list(parse_links(dump[:40])) == []


def route(destination_bits=0, table=254, mtu=None):
    body = struct.pack("=8BI", socket.AF_INET, destination_bits, 0, 0, table, 3, 0, 1, 0)
    body += attribute(5, bytes([10, 0, 0, 1])) + attribute(4, struct.pack("=I", 7))
    if mtu is not None:
        body += attribute(8, attribute(2, struct.pack("=I", mtu)))
    return message(24, body)


def test_only_default_routes_are_taken_and_no_gateway():
    dump = route(mtu=1380) + route(destination_bits=24) + route(table=255) + route() + message(3, bytes(4))
    found = list(parse_routes(dump))
    assert found == [Route(socket.AF_INET, 7, 1380, 0), Route(socket.AF_INET, 7, None, 0)]
    link = Link(7, "eth0", 1450, "noqueue", "veth", loopback=False)
    assert [fact.value for fact in routes(found[:1], [link])] == ["eth0 mtu 1380 (route)"]
    assert [fact.value for fact in routes(found[1:], [link])] == ["eth0 mtu 1450 (device)"]


def test_every_hop_of_a_multipath_default_route_is_told():
    hops = b"".join(struct.pack("=HBBI", 16, 0, 0, index) + attribute(5, bytes([10, 0, 0, 1])) for index in (7, 8))
    body = struct.pack("=8BI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0) + attribute(9, hops)
    found = list(parse_routes(message(24, body)))
    assert [route.link_index for route in found] == [7, 8]
    links = [Link(7, "eth0", 1500, "mq", "", loopback=False), Link(8, "eth1", 9000, "mq", "", loopback=False)]
    assert [fact.value for fact in routes(found, links)] == ["eth0 mtu 1500 (device) and eth1 mtu 9000 (device)"]
    assert list(parse_routes(message(24, body[:-9]))) == found[:1], "a hop cut short"


def test_a_node_of_ipv6_alone_has_its_route_and_the_better_one_counts():
    found = [Route(socket.AF_INET6, 8, None, 1024), Route(socket.AF_INET6, 7, None, 512)]
    links = [Link(i, f"eth{i}", 1500, "mq", "", loopback=False) for i in (7, 8)]
    assert {fact.name: fact.value for fact in routes(found, links)} == {"default_route_v6": "eth7 mtu 1500 (device)"}


def link(index, name, kind, **more):
    return Link(index, name, 1500, "noqueue", kind, loopback=False, **more)


LINKS = [
    link(1, "bond0", "bond"),
    link(2, "eth0", "", master=1),
    link(3, "eth1", "", master=1),
    link(4, "bond0.5", "vlan", below=1),
    link(5, "br0", "bridge"),
    link(6, "veth9", "veth", master=5, below=2),
    link(7, "eth2", ""),
    link(8, "enP1", "", master=7),
]


def kernel_says(monkeypatch, links, found=()):
    for place, answer in (("dump_links", links), ("dump_routes", found)):
        monkeypatch.setattr(
            f"cvmprobe.probes.facts.netlink.{place}", answer if callable(answer) else lambda a=answer: a
        )
    return {fact.name: fact for fact in network(Path("/"))}


def test_what_carries_a_bond_a_vlan_and_a_synthetic_nic_is_told(monkeypatch):
    found = kernel_says(monkeypatch, LINKS)
    below = {name: fact.value for name, fact in found.items() if name.endswith("_carried_by")}
    assert below == {
        "interface_bond0_carried_by": "eth0 eth1",
        "interface_bond0.5_carried_by": "bond0",
        "interface_eth2_carried_by": "enP1",
    }
    assert "virtual" not in found["interface_bond0_speed_mbit"].source
    assert "virtual" in found["interface_br0_speed_mbit"].source
    assert found["interfaces"].value == "8"


def test_a_node_without_a_default_route_says_so(monkeypatch):
    found = kernel_says(monkeypatch, LINKS)
    assert {found[name].value for name in ("default_route", "default_route_v6")} == {"none"}


def test_a_kernel_that_does_not_answer_leaves_all_unknown(monkeypatch):
    def refused():
        raise PermissionError(1, "Operation not permitted")

    found = kernel_says(monkeypatch, refused, refused)
    for name in ("default_route", "default_route_v6", "cni"):
        assert (found[name].value, found[name].source) == (None, "rtnetlink: Operation not permitted")
    assert found["interface_lo_mtu"].source == "/sys/class/net/lo/mtu"
    assert "interface_lo_state" not in found


def test_where_no_device_can_be_seen_their_number_is_unknown_not_0(tmp_path):
    assert environment(tmp_path).value("interfaces") is None


@pytest.mark.parametrize(
    ("devices", "name", "encryption"),
    [
        (["eth0"], None, None),
        (["eth0", "lxcbr0"], None, None),
        (["eth0", "cilium_host", "lxc1", "cilium_wg0"], "cilium", "wireguard device cilium_wg0"),
        (["flannel.1", "cni0"], "flannel", None),
        (["vxlan.calico", "cali123"], "calico", None),
    ],
)
def test_a_cni_is_known_by_its_devices_or_not_at_all(devices, name, encryption):
    links = [Link(i, device, 1500, "", "", loopback=False) for i, device in enumerate(devices)]
    found = {fact.name: fact for fact in cni(links)}
    assert (found["cni"].value, found["cni_encryption"].value) == (name, encryption)
    assert all(fact.source for fact in found.values())


def test_the_kernel_answers_about_links_here():
    assert [link.mtu > 0 for link in dump_links() if link.loopback] == [True]


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
