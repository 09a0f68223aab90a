"""The verdict on the trusted execution environment, for machines that are not at hand: tests/data/cpuid/*.json.

Each file says of which of its leaves the values were recorded, and where that is published; all others are constructed
from a public description.
"""

import json
from pathlib import Path

import pytest

from cvmprobe.model.environment import Confidence, TeeKind
from cvmprobe.probes.tee import LEAVES, VMPL_FILE, Evidence, hypervisor, judge_tee

FOLDER = Path(__file__).resolve().parents[1] / "data/cpuid"
VECTORS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def leaves_of(vector):
    if vector["leaves"] is None:
        return None
    return {int(leaf, 16): tuple(int(value, 16) for value in row) for leaf, row in vector["leaves"].items()}


LEAVES_OF = {name: leaves_of(vector) for name, vector in VECTORS.items()}


@pytest.mark.parametrize("name", VECTORS)
def test_each_machine_is_told_apart(name):
    expected = VECTORS[name]["expect"]
    verdict = judge_tee(Evidence(LEAVES_OF[name]))
    assert (verdict.kind, verdict.paravisor) == (expected["kind"], expected["paravisor"])
    assert verdict.confidence == expected["confidence"]
    assert expected["evidence"] in " ".join(verdict.evidence)
    assert verdict.attested is False
    assert "verified" not in str(verdict)


def test_every_kind_of_machine_has_a_vector_that_tells_its_origin():
    needed = {"sev", "sev-es", "sev-snp", "tdx", "azure-sev-snp", "azure-tdx", "plain-hyperv", "aarch64"}
    assert needed | {"plain-kvm-amd", "plain-kvm-intel", "bare-metal-amd", "bare-metal-intel"} <= VECTORS.keys()
    for vector in VECTORS.values():
        recorded = [leaf for leaves in vector["recorded"].values() for leaf in leaves]
        assert len(recorded) == len(set(recorded))
        assert set(recorded) <= set(vector["leaves"] or ())
        assert bool(vector["constructed"]) is (vector["leaves"] is None or len(recorded) < len(vector["leaves"]))


def test_the_leaf_that_decides_was_recorded_where_one_is_published():
    deciding = {
        "sev-snp": "0x8000001f",
        "sev-snp-firmware": "0x8000001f",
        "tdx": "0x21",
        "azure-tdx-no-paravisor": "0x4000000c",
        "azure-sev-snp": "0x4000000c",
        "firecracker-amd": "0x8000001f",
        "plain-kvm-amd": "0x8000001f",
        "plain-hyperv": "0x40000003",
        "hyperv-root-partition": "0x40000003",
        "bare-metal-amd": "0x1",
        "bare-metal-intel": "0x1",
    }
    for name, leaf in deciding.items():
        assert any(leaf in leaves for leaves in VECTORS[name]["recorded"].values())


def test_the_two_azure_registers_are_as_they_were_seen():
    assert LEAVES_OF["azure-sev-snp"][0x4000000C][:2] == (0x1, 0xBA2)
    assert LEAVES_OF["azure-tdx"][0x4000000C][:2] == (0x1, 0xBE3)


@pytest.mark.parametrize(
    ("name", "leaf", "register", "bit"),
    [("sev", 0x8000001F, 0, 1), ("sev-es", 0x8000001F, 0, 3), ("sev-snp", 0x8000001F, 0, 4), ("tdx", 0x21, 1, 0)],
)
def test_one_bit_decides(name, leaf, register, bit):
    row = list(LEAVES_OF[name][leaf])
    row[register] ^= 1 << bit
    changed = judge_tee(Evidence(LEAVES_OF[name] | {leaf: tuple(row)}))
    assert changed.kind != VECTORS[name]["expect"]["kind"]


def test_a_leaf_beyond_the_highest_says_nothing():
    kvm = LEAVES_OF["plain-kvm-amd"]
    beyond = {0x21: LEAVES_OF["tdx"][0x21], 0x80000000: (0x80000008, 0, 0, 0), 0x8000001F: (0x1A, 0, 0, 0)}
    assert judge_tee(Evidence(kvm | beyond)).kind is TeeKind.NONE


SNP_LOG = "Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP"
SUPPORT = {
    "a device": ({"files": frozenset({"/dev/sev-guest"})}, "/dev/sev-guest exists"),
    "the command line": ({"options": ["quiet", "constel.attestation-variant=gcp-sev-snp"]}, "gcp-sev-snp"),
    "a register": ({"sev_status": 0x7}, "MSR 0xC0010131 0x7: bit 2"),
    "the log": ({"log": ["x86/cpu: hello", SNP_LOG]}, SNP_LOG),
}


@pytest.mark.parametrize("support", SUPPORT)
def test_what_agrees_makes_cpuid_surer_and_is_told(support):
    more, told = SUPPORT[support]
    verdict = judge_tee(Evidence(LEAVES_OF["sev-snp"], **more))
    assert (verdict.kind, verdict.confidence) == (TeeKind.SEV_SNP, Confidence.HIGH)
    assert told in " ".join(verdict.evidence)


@pytest.mark.parametrize("support", SUPPORT)
def test_what_disagrees_with_cpuid_is_told_and_lowers_the_confidence(support):
    more, told = SUPPORT[support]
    for name, kind in (("tdx", TeeKind.TDX), ("plain-kvm-intel", TeeKind.SEV_SNP), ("aarch64", TeeKind.SEV_SNP)):
        verdict = judge_tee(Evidence(LEAVES_OF[name], **more))
        assert (verdict.kind, verdict.confidence) == (kind, Confidence.LOW)
        assert told in " ".join(verdict.evidence)


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"sev_status": 0x1}, TeeKind.SEV),
        ({"sev_status": 0x3}, TeeKind.SEV_ES),
        ({"log": ["Memory Encryption Features active: Intel TDX"]}, TeeKind.TDX),
        ({"log": ["AMD Memory Encryption Features active: SEV SEV-ES"]}, TeeKind.SEV_ES),
        ({"options": ["constel.attestation-variant=azure-tdx"]}, TeeKind.TDX),
        ({"files": frozenset({"/dev/tdx_guest"})}, TeeKind.TDX),
    ],
)
def test_each_claim_alone_names_its_kind(more, kind):
    assert judge_tee(Evidence(None, **more)).kind is kind


@pytest.mark.parametrize(
    "more",
    [
        {"log": ["Memory Encryption Features active: AMD SME"]},
        {"options": ["constel.attestation-variant=qemu-vtpm", "mem_encrypt=on"]},
        {"files": frozenset({"/sys/kernel/config/tsm/report"})},
    ],
)
def test_what_tells_of_no_kind_of_guest_does_not_change_the_verdict(more):
    for name in ("plain-kvm-intel", "sev-snp"):
        plain, verdict = judge_tee(Evidence(LEAVES_OF[name])), judge_tee(Evidence(LEAVES_OF[name], **more))
        assert (verdict.kind, verdict.confidence) == (plain.kind, plain.confidence)


def test_a_register_that_says_off_denies_cpuid_unless_a_paravisor_hides_it():
    off = {"sev_status": 0}
    assert judge_tee(Evidence(LEAVES_OF["sev"], **off)).confidence is Confidence.LOW
    for name in ("azure-sev-snp", "plain-kvm-amd", "aarch64"):
        plain, verdict = judge_tee(Evidence(LEAVES_OF[name])), judge_tee(Evidence(LEAVES_OF[name], **off))
        assert (verdict.kind, verdict.confidence) == (plain.kind, plain.confidence)
        assert "SEV is off" in " ".join(verdict.evidence)


AMD_TDX = LEAVES_OF["tdx"] | {0: (0x21, *LEAVES_OF["sev-snp"][0][1:])}
INTEL_SNP = LEAVES_OF["sev-snp"] | {0: LEAVES_OF["plain-kvm-intel"][0]}
BARE_TDX = LEAVES_OF["tdx"] | {1: LEAVES_OF["bare-metal-intel"][1]}
TWO_KINDS = LEAVES_OF["azure-tdx-no-paravisor"] | {0x4000000C: (0, 2, 0, 0)}


@pytest.mark.parametrize(
    ("leaves", "kind", "told"),
    [
        (AMD_TDX, TeeKind.TDX, "against it: CPUID 0x0: 'AuthenticAMD' makes no tdx"),
        (INTEL_SNP, TeeKind.SEV_SNP, "against it: CPUID 0x0: 'GenuineIntel' makes no sev-snp"),
        (BARE_TDX, TeeKind.TDX, "against it: CPUID 0x1 ECX[31]: no hypervisor"),
        (TWO_KINDS, TeeKind.SEV_SNP, "against it: another leaf says tdx"),
    ],
)
def test_leaves_that_contradict_each_other_lower_the_confidence_and_are_named(leaves, kind, told):
    for files in ((), ("/dev/sev-guest", "/dev/tdx_guest")):
        verdict = judge_tee(Evidence(leaves, frozenset(files)))
        assert (verdict.kind, verdict.confidence) == (kind, Confidence.LOW)
        assert told in verdict.evidence


def test_a_kernel_below_a_paravisor_logs_sev_alone_and_means_snp():
    """As Linux does with an address bit for a boundary (vTOM): of all attributes it has that of encrypted memory."""
    log = ["Memory Encryption Features active: AMD SEV"]
    below, above = (judge_tee(Evidence(LEAVES_OF[name], log=log)) for name in ("azure-sev-snp", "sev-snp"))
    assert (below.kind, below.confidence) == (TeeKind.SEV_SNP, Confidence.HIGH)
    assert (above.kind, above.confidence) == (TeeKind.SEV_SNP, Confidence.LOW)
    other = ["Memory Encryption Features active: Intel TDX"]
    assert judge_tee(Evidence(LEAVES_OF["azure-sev-snp"], log=other)).confidence is Confidence.LOW


@pytest.mark.parametrize(
    ("name", "device", "seen"),
    [
        ("sev-snp", "/dev/sev-guest", "/sys/class/misc/sev-guest"),
        ("tdx", "/dev/tdx_guest", "/sys/class/misc/tdx_guest"),
        ("azure-tdx-no-paravisor", "/dev/tdx_guest", "/dev/tdx_guest"),
    ],
)
def test_the_device_of_such_a_guest_is_missed_by_name_or_makes_it_surer(name, device, seen):
    without, within = (judge_tee(Evidence(LEAVES_OF[name], frozenset(files))) for files in ((), (seen,)))
    assert (without.confidence, within.confidence) == (Confidence.MEDIUM, Confidence.HIGH)
    assert f"no {device} is seen" in " ".join(without.evidence)
    assert f"no {device} is seen" not in " ".join(within.evidence)
    assert without.kind is within.kind


def test_below_a_paravisor_no_device_is_missed():
    for name in ("azure-sev-snp", "azure-tdx"):
        assert "is seen" not in " ".join(judge_tee(Evidence(LEAVES_OF[name])).evidence)


@pytest.mark.parametrize(
    ("more", "kind", "confidence"),
    [
        ({}, TeeKind.UNKNOWN, Confidence.LOW),
        ({"sev_status": 0}, TeeKind.NONE, Confidence.MEDIUM),
        ({"sev_status": 0x7}, TeeKind.SEV_SNP, Confidence.MEDIUM),
        ({"log": [SNP_LOG]}, TeeKind.SEV_SNP, Confidence.MEDIUM),
        ({"log": [SNP_LOG], "sev_status": 0}, TeeKind.SEV_SNP, Confidence.LOW),
        ({"log": [SNP_LOG], "files": frozenset({"/dev/tdx_guest"})}, TeeKind.TDX, Confidence.LOW),
    ],
)
def test_a_host_s_leaf_handed_to_a_guest_is_no_word_on_the_guest(more, kind, confidence):
    """A Firecracker VM without confidentiality shows the bits of SEV-SNP, all of them its host's."""
    verdict = judge_tee(Evidence(LEAVES_OF["firecracker-amd"], **more))
    assert (verdict.kind, verdict.confidence) == (kind, confidence)
    assert "the host's leaf" in " ".join(verdict.evidence)


@pytest.mark.parametrize(("vmpl", "paravisor"), [(None, None), (0, None), (2, True)])
def test_a_lesser_privilege_level_means_somebody_is_above(vmpl, paravisor):
    verdict = judge_tee(Evidence(LEAVES_OF["sev-snp"], frozenset({VMPL_FILE}), vmpl))
    assert (verdict.vmpl, verdict.paravisor) == (vmpl, paravisor)


def test_every_leaf_that_is_judged_is_read():
    judged = {leaf for leaves in LEAVES_OF.values() for leaf in leaves or ()}
    assert judged <= set(LEAVES)


def test_the_hypervisor_is_named_where_there_is_one():
    named = {name: hypervisor(leaves.get) for name, leaves in LEAVES_OF.items() if leaves}
    assert (named["sev"], named["azure-tdx"], named["bare-metal-amd"]) == ("KVMKVMKVM", "Microsoft Hv", None)
