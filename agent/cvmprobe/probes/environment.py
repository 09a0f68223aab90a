"""What this node is, as far as a process without privileges can read it. Each fact names its source.

A fact that cannot be read has the value None, and its source says why. Nothing is written, and nothing that
names the machine to outsiders (addresses, serial numbers, the whole kernel command line) is collected.
"""

import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cvmprobe.model.environment import Environment, Fact
from cvmprobe.native import cpuid, recording
from cvmprobe.probes.cgroup import cpu_groups, numbers
from cvmprobe.probes.tee import LEAVES, TEE_FILES, VMPL_FILE, Evidence, Registers, judge_tee

__all__ = ["environment"]

_VALUE_BYTES = 4096
_KERNEL_OPTIONS = ("nosmt", "mitigations", "idle", "swiotlb", "mem_encrypt", "clocksource", "isolcpus", "nohz_full")
_KERNEL_OPTION_PREFIXES = ("constel.",)
_FILES = (
    ("boot_id", "proc/sys/kernel/random/boot_id"),
    ("clocksource", "sys/devices/system/clocksource/clocksource0/current_clocksource"),
    ("cpus_online", "sys/devices/system/cpu/online"),
    ("smt_active", "sys/devices/system/cpu/smt/active"),
    ("numa_nodes", "sys/devices/system/node/online"),
    ("transparent_hugepage", "sys/kernel/mm/transparent_hugepage/enabled"),
    ("tcp_congestion_control", "proc/sys/net/ipv4/tcp_congestion_control"),
    ("tcp_available_congestion_control", "proc/sys/net/ipv4/tcp_available_congestion_control"),
    ("default_qdisc", "proc/sys/net/core/default_qdisc"),
    ("tcp_rmem", "proc/sys/net/ipv4/tcp_rmem"),
    ("tcp_wmem", "proc/sys/net/ipv4/tcp_wmem"),
    ("io_uring_disabled", "proc/sys/kernel/io_uring_disabled"),
    ("swiotlb_slots", "sys/kernel/debug/swiotlb/io_tlb_nslabs"),
    ("swiotlb_slots_used", "sys/kernel/debug/swiotlb/io_tlb_used"),
)


def environment(root: Path = Path("/")) -> Environment:
    """Read all facts of this node; ``root`` stands for ``/`` wherever a file is read. Takes some ms, raises nothing."""
    facts = [
        *_system(),
        *(_file(root, name, path) for name, path in _FILES),
        *_kernel_options(root),
        *_processor(root),
        *_vulnerabilities(root),
        *_limits(root),
        *_interfaces(root),
        *_block_devices(root),
        *_clock(),
    ]
    return Environment(tuple(facts), judge_tee(_tee_evidence(root)))


def _read(path: Path) -> str:
    """Return a small file's text, stripped. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_VALUE_BYTES).decode("utf-8", "replace").strip()


def _fact(name: str, source: str, value: Callable[[], str | None]) -> Fact:
    try:
        return Fact(name, value(), source)
    except OSError as error:
        return Fact(name, None, f"{source}: {error.strerror}")


def _file(root: Path, name: str, path: str) -> Fact:
    return _fact(name, f"/{path}", partial(_read, root / path))


def _link_name(path: Path) -> str:
    return path.resolve().name


def _field_of(path: Path, name: str, separator: str = ":") -> str | None:
    """Return what stands behind ``name`` and the separator in the first line that begins so."""
    for line in _read(path).splitlines():
        key, found, value = line.partition(separator)
        if found and key.strip() == name:
            return value.strip()
    return None


def _system() -> Iterator[Fact]:
    names = os.uname()
    yield Fact("kernel", names.release, "uname")
    yield Fact("architecture", names.machine, "uname")
    yield Fact("python", platform.python_version(), "interpreter")
    yield Fact("libc", " ".join(platform.libc_ver()) or None, "interpreter")
    allowed = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
    yield Fact("cpus_allowed", allowed, "sched_getaffinity")


def _kernel_options(root: Path) -> Iterator[Fact]:
    """Only the options that change what is measured; the rest of the command line may tell too much."""

    def wanted() -> str:
        words = _read(root / "proc/cmdline").split()
        return " ".join(
            word
            for word in words
            if word.partition("=")[0] in _KERNEL_OPTIONS or word.startswith(_KERNEL_OPTION_PREFIXES)
        )

    yield _fact("kernel_options", "/proc/cmdline", wanted)


def _processor(root: Path) -> Iterator[Fact]:
    source = "/proc/cpuinfo"
    for name, field in (("cpu_model", "model name"), ("cpu_vendor", "vendor_id"), ("microcode", "microcode")):
        yield _fact(name, source, partial(_field_of, root / "proc/cpuinfo", field))
    yield _fact("memory_total", "/proc/meminfo", partial(_field_of, root / "proc/meminfo", "MemTotal"))
    yield _fact("os", "/etc/os-release", partial(_os_name, root))


def _os_name(root: Path) -> str | None:
    name = _field_of(root / "etc/os-release", "PRETTY_NAME", "=")
    return None if name is None else name.strip('"')


def _vulnerabilities(root: Path) -> Iterator[Fact]:
    folder = "sys/devices/system/cpu/vulnerabilities"
    for name in _names(root / folder):
        yield _file(root, f"vulnerability_{name}", f"{folder}/{name}")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _limits(root: Path) -> Iterator[Fact]:
    """Tell what keeps this process from the whole machine: its cgroup and its system call filter."""
    groups = cpu_groups(root)
    if not groups:
        unknown = "cgroup: no cpu.stat with a quota"
        yield Fact("cpu_quota", None, unknown)
        yield Fact("cpu_throttled_periods", None, unknown)
    else:
        group = groups[0]
        yield _fact("cpu_quota", str(group), partial(_cpu_quota, group))
        count = numbers(group / "cpu.stat").get("nr_throttled")
        yield Fact("cpu_throttled_periods", None if count is None else str(count), str(group / "cpu.stat"))
    status = "/proc/self/status"
    yield _fact("seccomp_mode", status, partial(_field_of, root / "proc/self/status", "Seccomp"))
    yield _fact("no_new_privileges", status, partial(_field_of, root / "proc/self/status", "NoNewPrivs"))


def _cpu_quota(group: Path) -> str:
    """Return quota and period in us, as cgroup v2 writes them: ``max 100000`` is no limit."""
    if (group / "cpu.max").exists():
        return _read(group / "cpu.max")
    quota = _read(group / "cpu.cfs_quota_us")
    return f"{'max' if quota == '-1' else quota} {_read(group / 'cpu.cfs_period_us')}"


def _interfaces(root: Path) -> Iterator[Fact]:
    folder = "sys/class/net"
    for name in _names(root / folder):
        if not (root / folder / name / "mtu").exists():
            continue
        yield _file(root, f"interface_{name}_mtu", f"{folder}/{name}/mtu")
        driver = root / folder / name / "device/driver"
        if driver.exists():
            yield _fact(f"interface_{name}_driver", f"/{folder}/{name}/device/driver", partial(_link_name, driver))


def _block_devices(root: Path) -> Iterator[Fact]:
    """Tell the disk stack: what encrypts or checks a device-mapper device, and its slaves, what lies below."""
    folder = "sys/block"
    for name in _names(root / folder):
        device = root / folder / name
        if name.startswith(("loop", "ram", "zram", "sr")) or not (device / "queue").exists():
            continue
        yield _file(root, f"disk_{name}_scheduler", f"{folder}/{name}/queue/scheduler")
        yield _file(root, f"disk_{name}_rotational", f"{folder}/{name}/queue/rotational")
        if (device / "dm").exists():
            yield _file(root, f"disk_{name}_dm_name", f"{folder}/{name}/dm/name")
            yield _fact(f"disk_{name}_dm_type", f"/{folder}/{name}/dm/uuid", partial(_dm_type, device))
            yield Fact(f"disk_{name}_slaves", ",".join(_names(device / "slaves")), f"/{folder}/{name}/slaves")


def _dm_type(device: Path) -> str:
    """Return the part of a device-mapper uuid that names the kind, such as CRYPT-LUKS2; the rest names the volume."""
    return "-".join(_read(device / "dm/uuid").split("-")[:2])


def _clock() -> Iterator[Fact]:
    """Tell what reading the clock costs; far below the system call, it is read without one (vDSO)."""
    cost = min(recording.cost_ns("clock", 2_000) for _ in range(5))
    by_syscall = min(recording.cost_ns("clock by system call", 1_000) for _ in range(3))
    yield Fact("clock_cost_ns", f"{cost:.0f}", "measured: CLOCK_MONOTONIC")
    yield Fact("clock_syscall_ns", f"{by_syscall:.0f}", "measured: CLOCK_MONOTONIC by system call")


def _tee_evidence(root: Path) -> Evidence:
    files = frozenset(path for path in TEE_FILES if (root / path.lstrip("/")).exists())
    try:
        vmpl = int(_read(root / VMPL_FILE.lstrip("/")))
    except (OSError, ValueError):
        vmpl = None
    return Evidence(_leaves(), files, vmpl)


def _leaves() -> dict[int, Registers] | None:
    found = {number: cpuid.leaf(number) for number in LEAVES}
    leaves = {number: registers for number, registers in found.items() if registers is not None}
    return leaves or None
