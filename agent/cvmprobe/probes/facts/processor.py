"""CPUs and memory: model, threads, mitigations, NUMA, and whether stolen time is told."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cvmprobe.model.environment import Fact
from cvmprobe.native import cpuid
from cvmprobe.probes.facts.reading import fact, field_of, file_fact, names, unknown
from cvmprobe.probes.steal import steal_source
from cvmprobe.probes.tee import hypervisor

__all__ = ["processor"]

_FILES = (
    ("cpus_online", "sys/devices/system/cpu/online"),
    ("smt_active", "sys/devices/system/cpu/smt/active"),
    ("smt_control", "sys/devices/system/cpu/smt/control"),
    ("cpu_governor", "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    ("cpu_idle_driver", "sys/devices/system/cpu/cpuidle/current_driver"),
    ("numa_nodes", "sys/devices/system/node/online"),
    ("transparent_hugepage", "sys/kernel/mm/transparent_hugepage/enabled"),
)


def processor(root: Path) -> Iterator[Fact]:
    """Yield what computes here."""
    info = root / "proc/cpuinfo"
    yield fact("cpu_model", "/proc/cpuinfo", partial(_model, info))
    for name, field in (("cpu_vendor", "vendor_id"), ("microcode", "microcode")):
        yield fact(name, "/proc/cpuinfo", partial(field_of, info, field))
    yield fact("cpus_allowed", "sched_getaffinity", lambda: ",".join(map(str, sorted(os.sched_getaffinity(0)))))
    for name, path in _FILES:
        yield file_fact(root, name, path)
    yield from _numa_cpus(root)
    yield _hypervisor()
    yield _steal(root)
    yield fact("memory_total", "/proc/meminfo", partial(field_of, root / "proc/meminfo", "MemTotal"))
    yield from _vulnerabilities(root)


def _model(info: Path) -> str | None:
    """Return the name of the processor, or where the architecture gives it none, the numbers of its maker and part."""
    name = field_of(info, "model name")
    maker, part = field_of(info, "CPU implementer"), field_of(info, "CPU part")
    return name or (f"implementer {maker}, part {part}" if maker and part else None)


def _hypervisor() -> Fact:
    if cpuid.leaf(0) is None:
        return unknown("hypervisor", "this processor has no CPUID")
    return Fact("hypervisor", hypervisor(cpuid.leaf) or "none", "CPUID 0x1 ECX[31], 0x40000000")


def _vulnerabilities(root: Path) -> Iterator[Fact]:
    folder = "sys/devices/system/cpu/vulnerabilities"
    found = names(root / folder)
    if not found:
        yield unknown("vulnerabilities", f"/{folder}: cannot be read")
    for name in found:
        yield file_fact(root, f"vulnerability_{name}", f"{folder}/{name}")


def _numa_cpus(root: Path) -> Iterator[Fact]:
    folder = "sys/devices/system/node"
    for name in names(root / folder):
        if name.startswith("node") and name[4:].isdecimal():
            yield file_fact(root, f"numa_{name}_cpus", f"{folder}/{name}/cpulist")


def _steal(root: Path) -> Fact:
    source = steal_source(root)
    if source is None:
        return unknown("steal", "the hypervisor does not say whether it tells stolen time")
    return Fact("steal", "told", source)
