"""What a person asks of a collector or an agent, and the rows it answers with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cvmprobe.model.endpoint import Endpoint, Path, Target
from cvmprobe.model.environment import Environment
from cvmprobe.model.window import Direction, Flag, Instance, Probe, Window

__all__ = [
    "Attachment",
    "Missed",
    "NodeStatus",
    "ProbeStatus",
    "Selection",
    "SnapshotFormat",
    "Summary",
    "TimeRange",
]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which windows are meant; an empty tuple means all."""

    nodes: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    paths: tuple[Path, ...] = ()
    targets: tuple[str, ...] = ()  # as str(target) prints them
    run_id: str | None = None

    def matches(self, window: Window) -> bool:
        """Whether a live window is meant (``run_id`` is not known to a window and is left to the store)."""
        return self.selects(window.instance)

    def selects(self, instance: Instance) -> bool:
        """Whether windows and samples of that instance are meant, as in ``matches``."""
        return (
            (not self.nodes or instance.source.node in self.nodes)
            and (not self.probes or instance.probe in self.probes)
            and (not self.paths or instance.path in self.paths)
            and (not self.targets or str(instance.target) in self.targets)
        )


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Wall time [start, end) in ms; None is open."""

    start_unix_ms: int | None = None
    end_unix_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Missed:
    """A watcher was too slow: this many items between the one before and the one after did not reach it."""

    count: int


class SnapshotFormat(StrEnum):
    """What an exported snapshot is written as."""

    ZIP = "zip"
    JSON = "json"
    CSV = "csv"


class Attachment(StrEnum):
    """Whether an agent is there."""

    PENDING = "pending"
    ATTACHED = "attached"
    LOST = "lost"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One endpoint as the collector sees it. numbered = stored + pending + lost, in batches; None: unknown."""

    endpoint: Endpoint
    attachment: Attachment
    version: str
    start_id: str
    numbered: int | None
    stored: int
    pending: int | None
    lost: int | None
    probe_service_port: int
    environment: Environment | None


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """One probe instance that runs, or last ran."""

    instance: Instance
    windows: int
    last_end_unix_ms: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric of one kind of measurement over a time range.

    ``quantiles`` maps q to nanoseconds and leaves out every q that n does not carry;
    ``rate`` is the counter per second of steady time; what does not apply is None or empty.
    """

    source: Endpoint
    probe: Probe
    target: Target
    path: Path | None
    direction: Direction
    parameters: Mapping[str, str]
    metric: str
    windows: int
    seconds: float
    count: int
    rate: float | None = None
    mean: float | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    flags: Mapping[Flag, int] = field(default_factory=dict)  # flag -> number of windows that carry it
    facts: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0  # steady windows in no figure, because the harness spoiled them
    deviation: float | None = None  # standard deviation of the values of a distribution; None below two of them
