"""Which trusted execution environment this is, judged from evidence. Pure: what is read elsewhere is given.

The ladder, best evidence first. CPUID decides; the rest supports or contradicts it, or stands alone where it is silent.

    CPUID                                    says
    0x80000000 ≥ 0x8000001F: EAX[1] [3] [4]  AMD: SEV, SEV-ES, SEV-SNP on (without a hypervisor: able to host it)
                             ECX             guests that a host can keep apart: not 0 in a guest that was handed the
                                             host's own leaf, which then says nothing of the guest
    0 ≥ 0x21: "IntelTDX    "                 Intel: a TDX guest
    0x40000000 "Microsoft Hv"
      0x40000003 EBX[22]                     this partition is isolated, so the next leaf counts
      0x4000000C EAX[0], EBX[3:0]            a paravisor is there (it may hide the bits above); 2 SEV-SNP, 3 TDX
                 EBX[5], EBX[11:6]           whether a shared-memory boundary is in use, and at which address bit
    kernel command line, devices of a guest, MSR 0xC0010131 EAX[0] [1] [2] and the kernel's log, where they may be read

What contradicts the verdict is told beside what carries it, and lowers the confidence: two leaves that name two kinds,
a vendor that makes no such thing, a register that says off. A guest's device that is missing is told too; but a
container sees no devices, so that only keeps the confidence from rising.

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
    "/sys/class/misc/sev-guest": TeeKind.SEV_SNP,  # the same devices, as a container may see them
    "/sys/class/misc/tdx_guest": TeeKind.TDX,
    VMPL_FILE: TeeKind.SEV_SNP,
    _TSM_FOLDER: None,  # reports can be asked for, by whatever kind of guest
}
_DEVICES = {TeeKind.SEV_SNP: "/dev/sev-guest", TeeKind.TDX: "/dev/tdx_guest"}
_AMD, _INTEL = ("AuthenticAMD", "HygonGenuine"), ("GenuineIntel",)
_MAKERS = {TeeKind.SEV: _AMD, TeeKind.SEV_ES: _AMD, TeeKind.SEV_SNP: _AMD, TeeKind.TDX: _INTEL}
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
    off = any(claim.kind is TeeKind.NONE for claim in claims)
    if kind is TeeKind.UNKNOWN:
        return _by_claims(evidence, claimed, reasons, off=off)
    if kind is TeeKind.NONE:
        if claimed:
            return TeeVerdict(claimed[0], None, evidence.vmpl, Confidence.LOW, reasons)
        return TeeVerdict(kind, False, None, _NONE_CONFIDENCE[processor.virtual], reasons)
    if evidence.vmpl:
        paravisor = True  # something more privileged than this kernel is in the machine
    against = list(_against(processor, kind))
    denied = bool(against) or (off and not paravisor)  # a paravisor hides the register
    reasons = (*reasons, *against, *_missing(evidence, kind, paravisor=paravisor))
    if paravisor and kind is TeeKind.SEV_SNP:  # with an address bit for a boundary the kernel logs AMD SEV alone
        claimed = [TeeKind.SEV_SNP if claim is TeeKind.SEV else claim for claim in claimed]
    return TeeVerdict(kind, paravisor, evidence.vmpl, _confidence(kind, claimed, denied=denied), reasons)


def _by_claims(evidence: Evidence, claimed: Sequence[TeeKind], reasons: tuple[str, ...], *, off: bool) -> TeeVerdict:
    """Judge where CPUID is the host's own: only what else there is tells of the guest."""
    if claimed:
        agreed = not off and len(set(claimed)) == 1
        return TeeVerdict(claimed[0], None, evidence.vmpl, Confidence.MEDIUM if agreed else Confidence.LOW, reasons)
    if off:
        return TeeVerdict(TeeKind.NONE, False, None, Confidence.MEDIUM, reasons)
    return TeeVerdict(TeeKind.UNKNOWN, None, None, Confidence.LOW, reasons)


def _against(processor: "_Processor", kind: TeeKind) -> Iterator[str]:
    """Yield what CPUID itself says against the kind."""
    if processor.vendor not in _MAKERS[kind]:
        yield f"against it: CPUID 0x0: {processor.vendor!r} makes no {kind}"
    if not processor.virtual:
        yield "against it: CPUID 0x1 ECX[31]: no hypervisor"
    others = [other for other, _ in _leaf_claims(processor) if other in _MAKERS and other is not kind]
    if others:
        yield f"against it: another leaf says {others[0]}"


def _missing(evidence: Evidence, kind: TeeKind, *, paravisor: bool | None) -> Iterator[str]:
    """Yield the device that such a guest has and this one does not show; a paravisor keeps it to itself."""
    if kind in _DEVICES and not paravisor and not any(TEE_FILES[path] is kind for path in evidence.files):
        yield f"no {_DEVICES[kind]} is seen: the driver is not loaded, or a container hides it"


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
        self.vendor = _text(self.leaf(_BASIC), "bdc")
        isolated = self.hypervisor == "Microsoft Hv" and self.leaf(_HYPERV_PRIVILEGES)[1] >> 22 & 1
        self.isolation = self.leaf(_HYPERV_ISOLATION) if isolated else None  # Hyper-V's word on it

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
    reasons = [f"CPUID 0x40000000: hypervisor {processor.hypervisor.rstrip(chr(0))!r}"] if processor.virtual else []
    claims = list(_leaf_claims(processor))
    reasons += [reason for _, reason in claims]
    kinds = [kind for kind, _ in claims if kind is not TeeKind.NONE]
    kind = kinds[0] if kinds else TeeKind.NONE
    paravisor = None
    if kind is TeeKind.NONE:
        paravisor = False
    elif processor.isolation is not None and _ISOLATION.get(processor.isolation[1] & 0xF) is kind:
        paravisor = bool(processor.isolation[0] & 1)
    return kind, paravisor, reasons


def _leaf_claims(processor: _Processor) -> Iterator[tuple[TeeKind, str]]:
    """Yield what each leaf says, best first; without a hypervisor AMD's tells what the processor could host."""
    if not processor.virtual:
        yield TeeKind.NONE, "CPUID 0x1 ECX[31]: no hypervisor"
    if processor.hypervisor == "Microsoft Hv":
        yield _by_hyperv(processor)
    if _text(processor.leaf(_TDX), "bdc") == "IntelTDX    ":
        yield TeeKind.TDX, "CPUID 0x21: 'IntelTDX'"
    if processor.virtual and processor.leaf(_EXTENDED)[0] >= _AMD_ENCRYPTION:
        yield _by_amd(processor.leaf(_AMD_ENCRYPTION))
    elif processor.virtual:
        yield TeeKind.NONE, "CPUID 0x8000001F: there is no such leaf"


def _by_hyperv(processor: _Processor) -> tuple[TeeKind, str]:
    if processor.isolation is None:
        return TeeKind.NONE, "CPUID 0x40000003 EBX[22]: the partition is not isolated"
    eax, ebx, _, _ = processor.isolation
    boundary = f", shared memory above address bit {ebx >> 6 & 0x3F}" if ebx >> 5 & 1 else ""
    reason = f"CPUID 0x4000000C EAX {eax:#x} EBX {ebx:#x}: isolation {ebx & 0xF}{boundary}"
    return _ISOLATION.get(ebx & 0xF, TeeKind.NONE), reason


def _by_amd(registers: Registers) -> tuple[TeeKind, str]:
    eax, _, guests, _ = registers
    reason = f"CPUID 0x8000001F EAX {eax:#x}"
    for bit, kind in ((4, TeeKind.SEV_SNP), (3, TeeKind.SEV_ES), (1, TeeKind.SEV)):
        if eax >> bit & 1:
            if guests:
                return TeeKind.UNKNOWN, f"{reason}, ECX: for {guests} guests: the host's leaf, not one about this guest"
            return kind, f"{reason}: bit {bit}"
    return TeeKind.NONE, f"{reason}: bits 1, 3 and 4 are 0"


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
