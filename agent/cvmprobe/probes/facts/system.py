"""Kernel, its options, and what of cvmprobe runs here."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import cvmprobe
from cvmprobe.model.environment import Fact
from cvmprobe.probes.facts.reading import fact, field_of, file_fact, read

__all__ = ["system"]

_KERNEL_OPTIONS = (
    "amd_iommu",
    "clocksource",
    "cpuidle.off",
    "cpuidle_haltpoll.force",
    "hugepages",
    "idle",
    "intel_idle.max_cstate",
    "intel_iommu",
    "iommu",
    "isolcpus",
    "l1tf",
    "maxcpus",
    "mds",
    "mem_encrypt",
    "mitigations",
    "no-steal-acc",
    "nohz_full",
    "nopti",
    "nosmt",
    "nospectre_v1",
    "nospectre_v2",
    "processor.max_cstate",
    "psi",
    "pti",
    "rcu_nocbs",
    "retbleed",
    "spec_store_bypass_disable",
    "spectre_v2",
    "swiotlb",
    "transparent_hugepage",
    "tsc",
    "tsx",
)
_KERNEL_OPTION_PREFIXES = ("constel.",)
_PACKAGES = ("grpcio", "msgspec", "protobuf", "psutil")


def system(root: Path) -> Iterator[Fact]:
    """Yield what software this node runs."""
    yield fact("kernel", "uname", lambda: os.uname().release)
    yield fact("architecture", "uname", lambda: os.uname().machine)
    yield fact("os", "/etc/os-release", lambda: _os_name(root))
    yield file_fact(root, "boot_id", "proc/sys/kernel/random/boot_id")
    yield fact("kernel_options", "/proc/cmdline", lambda: _kernel_options(root))
    yield Fact("cvmprobe", cvmprobe.__version__, "package")
    yield fact("image", "the image's own label", lambda: read(Path(sys.prefix) / "image") or None)
    yield Fact("python", platform.python_version(), "interpreter")
    yield Fact("libc", " ".join(platform.libc_ver()).strip() or None, "interpreter")
    for package in _PACKAGES:
        yield _package(package)


def _os_name(root: Path) -> str | None:
    name = field_of(root / "etc/os-release", "PRETTY_NAME", "=")
    return None if name is None else name.strip('"')


def _kernel_options(root: Path) -> str:
    """Return only the options that change what is measured; the rest of the command line may tell too much."""
    words = read(root / "proc/cmdline").split()
    return " ".join(
        word for word in words if word.partition("=")[0] in _KERNEL_OPTIONS or word.startswith(_KERNEL_OPTION_PREFIXES)
    )


def _package(name: str) -> Fact:
    try:
        return Fact(f"package_{name}", metadata.version(name), "package")
    except metadata.PackageNotFoundError:
        return Fact(f"package_{name}", None, "package: not installed")
