"""Which trusted execution environment this is, judged from evidence. Pure: what is read elsewhere is given.

The ladder, best evidence first. CPUID decides; the rest supports or contradicts it, or stands alone where it is silent.

    CPUID                                    says
    0x80000000 ≥ 0x8000001F: EAX[1] [3] [4]  AMD: SEV, SEV-ES, SEV-SNP on (without a hypervisor: able to host it)
    0 ≥ 0x21: "IntelTDX    "                 Intel: a TDX guest
    0x40000000 "Microsoft Hv"
      0x40000003 EBX[22]                     this partition is isolated, so the next leaf counts
      0x4000000C EAX[0], EBX[3:0]            a paravisor is there (it may hide the bits above); 2 SEV-SNP, 3 TDX
                 EBX[5], EBX[11:6]           whether a shared-memory boundary is in use, and at which address bit
    kernel command line, devices of a guest, MSR 0xC0010131 EAX[0] [1] [2] and the kernel's log, where they may be read

A hypervisor can forge CPUID, and the kernel believes it, so nothing here is attested.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cvmprobe.model.environment import Confidence, TeeKind, TeeVerdict

__all__ = ["LEAVES", "TEE_FILES", "VMPL_FILE", "Evidence", "Registers", "hypervisor", "judge_tee"]

Registers = tuple[int, int, int, int]  # eax, ebx, ecx, edx

_BASIC, _FEATURES, _TDX = 0x0, 0x1, 0x21
_HYPERVISOR, _HYPERV_PRIVILEGES, _HYPERV_ISOLATION = 0x40000000, 0x40000003, 0x4000000C
_EXTENDED, _AMD_ENCRYPTION = 0x80000000, 0x8000001F

LEAVES = (
    _BASIC,
    _FEATURES,
    _TDX,
    _HYPERVISOR,
    _HYPERV_PRIVILEGES,
    _HYPERV_ISOLATION,
    _EXTENDED,
    _AMD_ENCRYPTION,
)

VMPL_FILE = "/sys/devices/system/cpu/sev/vmpl"
_TSM_FOLDER = "/sys/kernel/config/tsm/report"
TEE_FILES = {
    "/dev/sev-guest": TeeKind.SEV_SNP,
    "/dev/tdx_guest": TeeKind.TDX,
    "/dev/tdx-guest": TeeKind.TDX,
    VMPL_FILE: TeeKind.SEV_SNP,
    _TSM_FOLDER: None,  # reports can be asked for, by whatever kind of guest
}
_ISOLATION = {2: TeeKind.SEV_SNP, 3: TeeKind.TDX}
_VARIANTS = (("sev-snp", TeeKind.SEV_SNP), ("sev-es", TeeKind.SEV_ES), ("tdx", TeeKind.TDX))
_LOGGED = re.compile(r"Memory Encryption Features active: *(.*)")
_NONE_CONFIDENCE = {True: Confidence.MEDIUM, False: Confidence.HIGH}  # a hypervisor could hide what it does


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found. ``leaves`` is None where there is no CPUID; ``files`` are those of interest that exist.

    ``sev_status`` is MSR 0xC0010131, ``options`` the kernel's command line, ``log`` its log; None or empty: not read.
    """

    leaves: Mapping[int, Registers] | None
    files: frozenset[str] = frozenset()
    vmpl: int | None = None
    sev_status: int | None = None
    options: Sequence[str] = ()
    log: Sequence[str] = ()


class _Claim(NamedTuple):
    kind: TeeKind | None  # None: it tells of no kind
    reason: str


def judge_tee(evidence: Evidence) -> TeeVerdict:
    """Return the verdict. CPUID leads, the rest supports or contradicts it; every reason is in ``evidence``."""
    claims = list(_claims(evidence))
    claimed: list[TeeKind] = [claim.kind for claim in claims if claim.kind not in (None, TeeKind.NONE)]
    told = tuple(claim.reason for claim in claims)
    if evidence.leaves is None:
        kind = claimed[0] if claimed else TeeKind.UNKNOWN
        return TeeVerdict(kind, None, evidence.vmpl, Confidence.LOW, ("this processor has no CPUID", *told))
    processor = _Processor(evidence.leaves)
    kind, paravisor, found = _by_cpuid(processor)
    reasons = (*found, *told)
    if kind is TeeKind.NONE:
        if claimed:
            return TeeVerdict(claimed[0], None, evidence.vmpl, Confidence.LOW, reasons)
        return TeeVerdict(kind, False, None, _NONE_CONFIDENCE[processor.virtual], reasons)
    if evidence.vmpl:
        paravisor = True  # something more privileged than this kernel is in the machine
    denied = not paravisor and any(claim.kind is TeeKind.NONE for claim in claims)  # a paravisor hides the register
    return TeeVerdict(kind, paravisor, evidence.vmpl, _confidence(kind, claimed, denied=denied), reasons)


def hypervisor(leaf: Callable[[int], Registers | None]) -> str | None:
    """Return what the hypervisor calls itself, such as KVMKVMKVM; None on bare metal, or without CPUID."""
    features, vendor = leaf(_FEATURES), leaf(_HYPERVISOR)
    if features is None or vendor is None or not features[2] >> 31 & 1:
        return None
    return _text(vendor, "bcd").rstrip("\0")


def _confidence(kind: TeeKind, claimed: Sequence[TeeKind], *, denied: bool) -> Confidence:
    if denied or any(claim is not kind for claim in claimed):
        return Confidence.LOW
    return Confidence.HIGH if claimed else Confidence.MEDIUM


class _Processor:
    """CPUID leaves, with those beyond the highest left out: they hold another leaf's answer."""

    def __init__(self, leaves: Mapping[int, Registers]) -> None:
        self._leaves = leaves
        self.virtual = bool(self.leaf(_FEATURES)[2] >> 31 & 1)
        self.hypervisor = _text(self.leaf(_HYPERVISOR), "bcd") if self.virtual else ""

    def leaf(self, number: int) -> Registers:
        """Return the registers of a leaf; zeros where it does not exist."""
        base = number & 0xF0000000
        highest = self._leaves.get(base, (0, 0, 0, 0))[0]
        return self._leaves.get(number, (0, 0, 0, 0)) if number <= highest else (0, 0, 0, 0)


def _text(registers: Registers, order: str) -> str:
    values = dict(zip("abcd", registers, strict=True))
    return struct.pack("<3I", *(values[name] for name in order)).decode("ascii", "replace")


def _by_cpuid(processor: _Processor) -> tuple[TeeKind, bool | None, list[str]]:
    """Return (kind, paravisor, reasons)."""
    if not processor.virtual:
        return TeeKind.NONE, False, ["CPUID 0x1 ECX[31]: no hypervisor"]
    reasons = [f"CPUID 0x40000000: hypervisor {processor.hypervisor.rstrip(chr(0))!r}"]
    if processor.hypervisor == "Microsoft Hv":
        kind, paravisor, reason = _by_hyperv(processor)
        reasons.append(reason)
        if kind is not TeeKind.NONE:
            return kind, paravisor, reasons
    if _text(processor.leaf(_TDX), "bdc") == "IntelTDX    ":
        return TeeKind.TDX, None, [*reasons, "CPUID 0x21: 'IntelTDX'"]
    kind, reason = _by_amd(processor.leaf(_AMD_ENCRYPTION)[0])
    return kind, None, [*reasons, reason]


def _by_hyperv(processor: _Processor) -> tuple[TeeKind, bool | None, str]:
    if not processor.leaf(_HYPERV_PRIVILEGES)[1] >> 22 & 1:
        return TeeKind.NONE, False, "CPUID 0x40000003 EBX[22]: the partition is not isolated"
    eax, ebx, _, _ = processor.leaf(_HYPERV_ISOLATION)
    kind = _ISOLATION.get(ebx & 0xF, TeeKind.NONE)
    boundary = f", shared memory above address bit {ebx >> 6 & 0x3F}" if ebx >> 5 & 1 else ""
    return kind, bool(eax & 1), f"CPUID 0x4000000C EAX {eax:#x} EBX {ebx:#x}: isolation {ebx & 0xF}{boundary}"


def _by_amd(eax: int) -> tuple[TeeKind, str]:
    reason = f"CPUID 0x8000001F EAX {eax:#x}"
    for bit, kind in ((4, TeeKind.SEV_SNP), (3, TeeKind.SEV_ES), (1, TeeKind.SEV)):
        if eax >> bit & 1:
            return kind, f"{reason}: bit {bit}"
    return TeeKind.NONE, f"{reason}: no memory encryption" if eax else "no leaf tells of memory encryption"


def _claims(evidence: Evidence) -> Iterator[_Claim]:
    """Yield what else there is, best first."""
    for option in evidence.options:
        name, _, variant = option.partition("=")
        if name == "constel.attestation-variant":
            kind = next((kind for word, kind in _VARIANTS if word in variant), None)
            yield _Claim(kind, f"/proc/cmdline: {option}")
    for path, kind in TEE_FILES.items():
        if path in evidence.files:
            yield _Claim(kind, f"{path} exists")
    if evidence.sev_status is not None:
        yield _by_sev_status(evidence.sev_status)
    for line in evidence.log:
        logged = _LOGGED.search(line)
        if logged:
            yield _Claim(_by_log(logged[1]), f"kernel log: {logged[0]}")


def _by_sev_status(status: int) -> _Claim:
    reason = f"MSR 0xC0010131 {status:#x}"
    for bit, kind in ((2, TeeKind.SEV_SNP), (1, TeeKind.SEV_ES), (0, TeeKind.SEV)):
        if status >> bit & 1:
            return _Claim(kind, f"{reason}: bit {bit}")
    return _Claim(TeeKind.NONE, f"{reason}: SEV is off")


def _by_log(features: str) -> TeeKind | None:
    words = features.split()
    for word, kind in (
        ("SEV-SNP", TeeKind.SEV_SNP),
        ("SEV-ES", TeeKind.SEV_ES),
        ("SEV", TeeKind.SEV),
        ("TDX", TeeKind.TDX),
    ):
        if word in words:
            return kind
    return None
