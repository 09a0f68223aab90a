"""Whether measuring is sound on a node, and what each missing right costs: judged from its facts alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cvmprobe.model.environment import Confidence, Environment, TeeKind

__all__ = [
    "Finding",
    "Weight",
    "diagnose",
    "environment_record",
    "examination_record",
    "finding_record",
    "is_sound",
    "number_of",
    "volume_names",
]

_AVAILABLE: Final = "available"
_SLOW_CLOCK_NS: Final = 1_000  # a stamp that costs more weighs more than what is stamped
_COARSE_CLOCK_NS: Final = 1_000
_LATE_SHARE: Final = 0.01  # as in the flag ``late``
_PRESSED_SHARE: Final = 0.20  # as in the flag ``pressed``
_NO_DISK: Final = {"tmpfs": "is memory", "ramfs": "is memory", "overlay": "is a container's own layer"}
_LOCK_BYTES: Final = 1 << 20
_SECCOMP: Final = "install deploy/seccomp/cvmprobe.json on the node and use deploy/io-uring"


class Weight(StrEnum):
    """How much a finding weighs."""

    NOTE = "note"  # something is unknown, or costs more than it could
    UNSOUND = "unsound"  # figures would be wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, what it costs, and what to do about it (empty: nothing can be done from here)."""

    weight: Weight
    subject: str
    what: str
    cost: str
    remedy: str = ""


def diagnose(environment: Environment) -> tuple[Finding, ...]:
    """Return what stands against measuring, the worst first. What is unknown because nobody looked is no finding."""
    found = [finding for judge in _JUDGES for finding in judge(environment)]
    return tuple(sorted(found, key=lambda finding: finding.weight is not Weight.UNSOUND))


def is_sound(findings: Sequence[Finding]) -> bool:
    """Whether figures taken there mean what they say."""
    return all(finding.weight is not Weight.UNSOUND for finding in findings)


def environment_record(environment: Environment) -> dict[str, object]:
    """Return an environment with the keys that json and yaml show."""
    tee = environment.tee
    return {
        "tee": {
            "kind": tee.kind.value,
            "paravisor": tee.paravisor,
            "vmpl": tee.vmpl,
            "confidence": tee.confidence.value,
            "attested": tee.attested,
            "evidence": list(tee.evidence),
        },
        "facts": {fact.name: {"value": fact.value, "source": fact.source} for fact in environment.facts},
    }


def finding_record(finding: Finding) -> dict[str, object]:
    """Return a finding with the keys that json and yaml show."""
    return {
        "weight": finding.weight.value,
        "subject": finding.subject,
        "what": finding.what,
        "cost": finding.cost,
        "remedy": finding.remedy,
    }


def examination_record(node: str, environment: Environment) -> dict[str, object]:
    """Return what was found on a node, and what comes of it, as json and yaml show it."""
    findings = diagnose(environment)
    return {
        "node": node,
        "sound": is_sound(findings),
        "findings": [finding_record(finding) for finding in findings],
        "environment": environment_record(environment),
    }


def _clock(environment: Environment) -> Iterator[Finding]:
    cost = number_of(environment, "clock_cost_ns")
    if cost is not None and cost > _SLOW_CLOCK_NS:
        yield _unsound(
            "clock", f"one reading takes {cost:,.0f} ns", "every stamp is part of what it measures", _CLOCK_REMEDY
        )
    elif environment.value("clock_vdso") == "no":
        yield _note(
            "clock", "it is read by a system call", f"each stamp costs {cost:,.0f} ns" if cost else "", _CLOCK_REMEDY
        )
    resolution = number_of(environment, "clock_resolution_ns")
    if resolution is not None and resolution > _COARSE_CLOCK_NS:
        yield _unsound("clock", f"it counts in steps of {resolution:,.0f} ns", "latencies below that are rounded")
    if (environment.value("clock_discipline") or "").startswith("not synchronized"):
        yield _note(
            "clock",
            "the wall clock is not synchronized",
            "windows of two nodes may not line up",
            "run chrony on the node",
        )


_CLOCK_REMEDY: Final = (
    "choose a clocksource that a process can read by itself (tsc, kvm-clock, hyperv_clocksource_tsc_page)"
)


def _timer(environment: Environment) -> Iterator[Finding]:
    share = number_of(environment, "timer_late_share")
    if share is not None and share > _LATE_SHARE:
        yield _unsound(
            "timer",
            f"{share:.1%} of the wakes are over 1 ms late",
            "operations at a rate start late, and a closed loop may be starved",
            "measure when the node is quieter, or where the CPUs are not shared",
        )
    worst = number_of(environment, "pressure_now_worst")
    if worst is not None and worst > _PRESSED_SHARE:
        yield _note(
            "pressure",
            f"tasks wait just now: {environment.value('pressure_now')}",
            "windows of a lease that begins now are flagged pressed",
            "measure when the node is quieter",
        )
    for why in _unknown(environment, "pressure"):
        yield _note("pressure", f"not told: {why}", "a busy node is not noticed before a lease", "boot with psi=1")


def _processor(environment: Environment) -> Iterator[Finding]:
    for name, whose in (("cpu_quota", "its own cgroup"), ("cpu_quota_around", "a group around it")):
        quota = environment.value(name)
        cpus = None if quota is None else _cpus(quota)
        if cpus is not None:
            weigh = _unsound if cpus < 1 else _note
            yield weigh(
                "cpu", f"{whose} may use {cpus:g} CPUs", "engines are stopped at the quota", "run without a CPU limit"
            )
    if (number_of(environment, "throttled_now") or 0) > 0:
        yield _unsound("cpu", "the quota stopped this process while it only looked", "figures show the quota")
    if list(_unknown(environment, "steal")):
        yield _note("cpu", "whether time is stolen is unknown", "a neighbour on the host looks like a slow node")


def _cpus(quota: str) -> float | None:
    share, _, period = quota.partition(" ")
    return int(share) / int(period) if share.isdecimal() and period.isdecimal() and int(period) else None


def _engines(environment: Environment) -> Iterator[Finding]:
    uring, libaio = environment.value("engine_io_uring"), environment.value("engine_libaio")
    if uring is not None and uring != _AVAILABLE:
        lesser = "libaio" if libaio == _AVAILABLE else "threads"
        yield _note("io_uring", uring, f"disk probes use {lesser}, which takes more CPU for each operation", _SECCOMP)
    if libaio is not None and libaio != _AVAILABLE:
        yield _note("libaio", libaio, "disk probes with the engine libaio, as published loads have it, are refused")
    gso = environment.value("engine_udp_gso")
    if gso is not None and gso != _AVAILABLE:
        yield _note("UDP GSO", gso, "UDP streams send datagram by datagram: about a tenth of the rate")
    lock = number_of(environment, "memory_lock_limit")
    if lock is not None and lock < _LOCK_BYTES:
        yield _note("io_uring", f"only {lock:,.0f} bytes may be locked", "deep queues use unregistered buffers")


def _volumes(environment: Environment) -> Iterator[Finding]:
    for name in volume_names(environment):
        filesystem = environment.value(f"volume_{name}_filesystem")
        if filesystem in _NO_DISK:
            yield _unsound(
                f"volume {name}",
                f"{filesystem} {_NO_DISK[filesystem]}",
                "figures would not be the disk's",
                "name a directory on a volume",
            )
        direct = environment.value(f"volume_{name}_direct_io")
        if direct is not None and direct != _AVAILABLE:
            yield _unsound(f"volume {name}", f"direct I/O is {direct}", "figures would be the page cache's")
        for why in _unknown(environment, f"volume_{name}_direct_io"):
            yield _note(f"volume {name}", why, "disk probes fail there", "let this user write in the directory")


def volume_names(environment: Environment) -> list[str]:
    """Return the volumes that facts are about."""
    parts = [fact.name.split("_") for fact in environment.facts if fact.name.startswith("volume_")]
    return list(dict.fromkeys("_".join(words[1:-1]) for words in parts if words[-1] in ("filesystem", "stack")))


def _rights(environment: Environment) -> Iterator[Finding]:
    """Tell what an ordinary pod may not see."""
    if any("may not be read" in why for why in _unknown(environment, "swiotlb_boot")):
        yield _note(
            "kernel log",
            "may not be read",
            "the kernel's own word on TEE and bounce buffers stays unknown",
            "CAP_SYSLOG",
        )
    for why in _unknown(environment, "swiotlb_used_bytes"):
        yield _note(
            "bounce buffers",
            f"their use is not told: {why}",
            "how full the bounce buffers are stays unknown",
            "root, and debugfs mounted",
        )
    if list(_unknown(environment, "cni_encryption")):
        yield _note(
            "host network",
            "no tunnel device is seen here",
            "whether the CNI encrypts stays unknown",
            "an agent on the host's network",
        )


def _tee(environment: Environment) -> Iterator[Finding]:
    """Tell of a verdict that a comparison of pools should not lean on."""
    tee = environment.tee
    if tee.kind is TeeKind.UNKNOWN:
        yield _note("TEE", "what there is to read does not tell the kind", _POOLS, _TEE_REMEDY)
    elif tee.confidence is Confidence.LOW:
        yield _note("TEE", f"{tee.kind} on thin or contradictory evidence: see above", _POOLS, _TEE_REMEDY)


_POOLS: Final = "the node may stand in the wrong pool of a comparison"
_TEE_REMEDY: Final = "an agent as root on the host, which sees the guest's devices and the kernel's log"


_JUDGES: Final[tuple[Callable[[Environment], Iterator[Finding]], ...]] = (
    _clock,
    _timer,
    _processor,
    _engines,
    _volumes,
    _rights,
    _tee,
)


def _note(subject: str, what: str, cost: str, remedy: str = "") -> Finding:
    return Finding(Weight.NOTE, subject, what, cost, remedy)


def _unsound(subject: str, what: str, cost: str, remedy: str = "") -> Finding:
    return Finding(Weight.UNSOUND, subject, what, cost, remedy)


def number_of(environment: Environment, name: str) -> float | None:
    """Return a fact as a number; None where it is unknown, or none: it may come from another version's agent."""
    try:
        return float(environment.value(name) or "")
    except ValueError:
        return None


def _unknown(environment: Environment, name: str) -> Iterator[str]:
    """Yield why a fact that somebody looked for could not be had; nothing where it was, or nobody looked."""
    yield from (fact.source for fact in environment.facts if fact.name == name and fact.value is None)
