"""What a node is: facts with their source, and the verdict on its trusted execution environment."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Confidence", "Environment", "Fact", "TeeKind", "TeeVerdict"]


class TeeKind(StrEnum):
    """The kind of trusted execution environment."""

    NONE = "none"
    SEV = "sev"
    SEV_ES = "sev-es"
    SEV_SNP = "sev-snp"
    TDX = "tdx"
    UNKNOWN = "unknown"


class Confidence(StrEnum):
    """How far the evidence carries. Nothing here is attested."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of a node. ``value`` is None where it could not be read; ``source`` says where from, or why not."""

    name: str
    value: str | None
    source: str


@dataclass(frozen=True, slots=True)
class TeeVerdict:
    """What the evidence says. A hypervisor can forge CPUID, so ``attested`` is always False."""

    kind: TeeKind
    paravisor: bool | None
    vmpl: int | None
    confidence: Confidence
    evidence: tuple[str, ...]
    attested: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """All facts of a node at one moment."""

    facts: tuple[Fact, ...]
    tee: TeeVerdict

    def value(self, name: str) -> str | None:
        """Value of the fact called ``name``; None where it is unknown."""
        return next((fact.value for fact in self.facts if fact.name == name), None)
