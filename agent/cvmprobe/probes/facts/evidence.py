"""What there is to judge the trusted execution environment by: CPUID, files, a register, the kernel's words."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from cvmprobe.native import cpuid
from cvmprobe.probes.facts.reading import exists, read
from cvmprobe.probes.tee import LEAVES, TEE_FILES, VMPL_FILE, Evidence, Registers

__all__ = ["gather"]

_SEV_STATUS = 0xC0010131
_REGISTER = struct.Struct("<Q")


def gather(root: Path, log: Sequence[str] | None) -> Evidence:
    """Return the evidence; CPUID is this processor's own, the files those below ``root``."""
    return Evidence(
        leaves=_leaves(),
        files=frozenset(path for path in TEE_FILES if exists(root / path.lstrip("/"))),
        vmpl=_vmpl(root),
        sev_status=_sev_status(root),
        options=_options(root),
        log=log or (),
    )


def _leaves() -> dict[int, Registers] | None:
    found = {number: cpuid.leaf(number) for number in LEAVES}
    leaves = {number: registers for number, registers in found.items() if registers is not None}
    return leaves or None


def _vmpl(root: Path) -> int | None:
    try:
        return int(read(root / VMPL_FILE.lstrip("/")))
    except (OSError, ValueError):
        return None


def _sev_status(root: Path) -> int | None:
    """Return the register, where root has loaded the msr driver and lets us read it; Intel's have no such one."""
    try:
        registers = os.open(root / "dev/cpu/0/msr", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        value = os.pread(registers, _REGISTER.size, _SEV_STATUS)
    except OSError:
        return None
    finally:
        os.close(registers)
    return int(_REGISTER.unpack(value)[0]) if len(value) == _REGISTER.size else None


def _options(root: Path) -> list[str]:
    try:
        return read(root / "proc/cmdline").split()
    except OSError:
        return []
