"""The verdict on the trusted execution environment, for machines that are not at hand.

The vectors are written from the public description of each leaf (AMD's programmer manual, Intel's TDX module,
Hyper-V's functional specification) and, for Azure, from the two EBX values seen there.
"""

import pytest

from cvmprobe.model.environment import Confidence, TeeKind
from cvmprobe.probes.tee import LEAVES, VMPL_FILE, Evidence, judge_tee

VIRTUAL = 1 << 31
NOTHING = (0, 0, 0, 0)


def words(text: str) -> list[int]:
    return [int.from_bytes(text[i : i + 4].encode(), "little") for i in (0, 4, 8)]


KVM, HYPERV, INTEL_TDX = words("KVMKVMKVM\0\0\0"), words("Microsoft Hv"), words("IntelTDX    ")
HYPERV_LEAVES = {0x40000000: (0x4000000C, *HYPERV), 0x40000003: (0xAE7F, 1 << 22 | 0x388030, 0, 0)}
AMD_GUEST = {
    0x0: (0x10, 0x68747541, 0x444D4163, 0x69746E65),
    0x1: (0xA00F11, 0, VIRTUAL, 0),
    0x40000000: (0x40000001, *KVM),
    0x80000000: (0x8000001F, 0, 0, 0),
}
INTEL_GUEST = {0x0: (0x1B, 0, 0, 0), 0x1: (0x606A6, 0, VIRTUAL, 0), 0x40000000: (0x40000001, *KVM)}
TDX_LEAF = {0x21: (0, INTEL_TDX[0], INTEL_TDX[2], INTEL_TDX[1])}  # the name stands in EBX, EDX, ECX
AZURE = {0x0: (0x10, 0, 0, 0), 0x1: (0xA00F11, 0, VIRTUAL, 0), **HYPERV_LEAVES, 0x80000000: (0x80000021, 0, 0, 0)}

MACHINES = {
    "SEV": (AMD_GUEST | {0x8000001F: (0x02, 0x73, 0, 0)}, TeeKind.SEV, None),
    "SEV-ES": (AMD_GUEST | {0x8000001F: (0x0A, 0x73, 0, 0)}, TeeKind.SEV_ES, None),
    "SNP": (AMD_GUEST | {0x8000001F: (0x1A, 0x73, 0, 0)}, TeeKind.SEV_SNP, None),
    "TDX": (INTEL_GUEST | {0x0: (0x21, 0, 0, 0)} | TDX_LEAF, TeeKind.TDX, None),
    "Azure SNP, paravisor": (AZURE | {0x4000000C: (1, 0xBA2, 0, 0)}, TeeKind.SEV_SNP, True),
    "Azure TDX, paravisor": (AZURE | {0x4000000C: (1, 0xBE3, 0, 0)}, TeeKind.TDX, True),
    "Azure SNP, none": (AZURE | {0x4000000C: (0, 0xBA2, 0, 0)}, TeeKind.SEV_SNP, False),
    "Hyper-V, isolated by software": (AZURE | {0x4000000C: (0, 1, 0, 0)}, TeeKind.NONE, False),
    "plain Hyper-V": (
        AZURE | {0x40000003: (0xAE7F, 0x388030, 0, 0), 0x4000000C: (1, 0xBA2, 0, 0)},  # not isolated: no meaning
        TeeKind.NONE,
        False,
    ),
    "plain KVM, AMD": (AMD_GUEST | {0x8000001F: NOTHING}, TeeKind.NONE, False),
    "plain KVM, Intel": (INTEL_GUEST, TeeKind.NONE, False),
    "bare metal AMD that can host SNP": (
        {
            0x0: (0x10, 0, 0, 0),
            0x1: (0xA00F11, 0, 0, 0),
            0x80000000: (0x80000021, 0, 0, 0),
            0x8000001F: (0x7F, 0, 0, 0),
        },
        TeeKind.NONE,
        False,
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_each_machine_is_told_apart(machine):
    leaves, kind, paravisor = MACHINES[machine]
    verdict = judge_tee(Evidence(leaves))
    assert (verdict.kind, verdict.paravisor) == (kind, paravisor)
    assert verdict.evidence
    assert verdict.attested is False


def test_bare_metal_is_surer_than_a_guest_that_could_be_fooled():
    assert judge_tee(Evidence(MACHINES["plain KVM, AMD"][0])).confidence is Confidence.MEDIUM
    assert judge_tee(Evidence(MACHINES["bare metal AMD that can host SNP"][0])).confidence is Confidence.HIGH


def test_the_address_bit_of_shared_memory_is_part_of_the_evidence():
    assert "address bit 46" in " ".join(judge_tee(Evidence(MACHINES["Azure SNP, paravisor"][0])).evidence)
    assert "address bit 47" in " ".join(judge_tee(Evidence(MACHINES["Azure TDX, paravisor"][0])).evidence)


def test_a_leaf_beyond_the_highest_says_nothing():
    beyond = INTEL_GUEST | TDX_LEAF | {0x80000000: (0x80000008, 0, 0, 0), 0x8000001F: (0x1A, 0, 0, 0)}
    assert judge_tee(Evidence(beyond)).kind is TeeKind.NONE


def test_a_device_of_the_kernel_makes_cpuid_surer():
    leaves = MACHINES["SNP"][0]
    assert judge_tee(Evidence(leaves)).confidence is Confidence.MEDIUM
    verdict = judge_tee(Evidence(leaves, frozenset({"/dev/sev-guest"})))
    assert (verdict.kind, verdict.confidence) == (TeeKind.SEV_SNP, Confidence.HIGH)
    assert "/dev/sev-guest exists" in verdict.evidence


def test_evidence_that_disagrees_is_told_and_lowers_the_confidence():
    tdx_file = frozenset({"/dev/tdx_guest"})
    hidden = judge_tee(Evidence(MACHINES["plain KVM, Intel"][0], tdx_file))
    assert (hidden.kind, hidden.confidence, hidden.paravisor) == (TeeKind.TDX, Confidence.LOW, None)
    mixed = judge_tee(Evidence(MACHINES["SNP"][0], tdx_file))
    assert (mixed.kind, mixed.confidence) == (TeeKind.SEV_SNP, Confidence.LOW)


@pytest.mark.parametrize(("vmpl", "paravisor"), [(None, None), (0, None), (2, True)])
def test_a_lesser_privilege_level_means_somebody_is_above(vmpl, paravisor):
    verdict = judge_tee(Evidence(MACHINES["SNP"][0], frozenset({VMPL_FILE}), vmpl))
    assert (verdict.vmpl, verdict.paravisor) == (vmpl, paravisor)


def test_without_cpuid_the_answer_is_unknown_not_none():
    verdict = judge_tee(Evidence(None))
    assert (verdict.kind, verdict.paravisor, verdict.confidence) == (TeeKind.UNKNOWN, None, Confidence.LOW)
    assert "no CPUID" in " ".join(verdict.evidence)


def test_every_leaf_that_is_judged_is_read():
    judged = {leaf for leaves, *_ in MACHINES.values() for leaf in leaves}
    assert judged <= set(LEAVES)
