"""From windows to one value for each repeat, metric and kind of measurement: what two runs are compared by."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from statistics import geometric_mean

from cvmprobe.analysis.summary import HEADLINES, summarize
from cvmprobe.model.query import Summary
from cvmprobe.model.run import LeaseRecord, Run
from cvmprobe.model.window import Direction, Probe, Window

__all__ = ["Kind", "Quantity", "Series", "series"]

_QUANTILES = (0.5, 0.99)
# Facts that make a figure what it is; others, such as the name of a device, may differ between two nodes.
_CONDITIONS = (
    "engine",
    "congestion_control",
    "wait",
    "receive",
    "buffers",
    "filesystem",
    "size_bytes",
    "pages",
    "unit",
    "placement",
)


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What is measured: a step of a suite on all pairs of a path, or on that volume of all nodes.

    Nodes and pairs are not told apart, so that clusters whose nodes have other names compare, and few questions are
    asked of the data. Outside of a run the parameters stand in for the step.
    """

    probe: Probe
    step: str
    where: str  # path, volume, or ``node``
    direction: Direction

    def __str__(self) -> str:
        direction = "" if self.direction is Direction.NONE else f" {self.direction}"
        return f"{self.probe} {self.step} {self.where}{direction}"


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """What of it is counted. ``up``: more is better."""

    metric: str
    point: str  # rate, mean, or a quantile as p99
    up: bool

    def __str__(self) -> str:
        return f"{self.metric} {self.point}"


@dataclass(slots=True)
class Series:
    """The values of the repeats of one kind, and what they were measured under.

    The value of a repeat is the geometric mean of its pairs'; one that lacks a pair has none.
    """

    values: dict[Quantity, list[float]] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    windows: int = 0
    left_out: int = 0

    @property
    def left_out_share(self) -> float:
        """Share of the steady windows that the harness spoiled."""
        steady = self.windows + self.left_out
        return self.left_out / steady if steady else 0.0


@dataclass(frozen=True, slots=True)
class _Repeat:
    """One execution: its summaries, one for each metric."""

    run: str  # with ``number`` it tells repeats apart that several pairs share
    number: int
    step: str
    summaries: tuple[Summary, ...]

    @property
    def kind(self) -> Kind:
        one = self.summaries[0]
        return Kind(one.probe, self.step, str(one.path or one.target), one.direction)

    @property
    def place(self) -> tuple[Kind, str, int]:
        """By which executions are brought together."""
        return self.kind, self.run, self.number


def series(windows: Iterable[Window], runs: Iterable[Run]) -> dict[Kind, Series]:
    """Return the series of each kind; ``runs`` tell which windows belong to a repeat of which step."""
    leases = {record.lease_id: (run.run_id, record) for run in runs for record in run.leases}
    executions: defaultdict[str, list[Window]] = defaultdict(list)
    for window in windows:
        executions[window.instance.assignment_id].append(window)
    repeats = [_repeat(key, own, leases) for key, own in executions.items()]
    kept = sorted((one for one in repeats if one.summaries), key=lambda one: one.place)
    return {kind: _series(list(group)) for kind, group in groupby(kept, key=lambda one: one.kind)}


def _repeat(assignment: str, windows: list[Window], leases: Mapping[str, tuple[str, LeaseRecord]]) -> _Repeat:
    instance = windows[0].instance
    run, record = leases.get(assignment, (assignment, None))
    parameters = " ".join(f"{name}={value}" for name, value in sorted(instance.parameters.items()))
    return _Repeat(run, instance.repeat, record.step if record else parameters, summarize(windows))


def _series(repeats: list[_Repeat]) -> Series:
    whole = Series()
    found: defaultdict[Quantity, list[list[float]]] = defaultdict(list)
    for _, group in groupby(repeats, key=lambda one: one.place):
        pairs: defaultdict[Quantity, list[float]] = defaultdict(list)
        for one in group:
            _describe(whole, one)
            for quantity, value in _values(one.summaries).items():
                pairs[quantity].append(value)
        for quantity, values in pairs.items():
            found[quantity].append(values)
    for quantity, each in found.items():
        pair_count = max(map(len, each))
        whole.values[quantity] = [geometric_mean(one) for one in each if len(one) == pair_count and min(one) > 0]
    return whole


def _describe(whole: Series, repeat: _Repeat) -> None:
    """Note what a repeat was measured under; what differs between repeats is ``mixed``."""
    one = repeat.summaries[0]
    found = {name: one.facts[name] for name in _CONDITIONS if name in one.facts} | dict(one.parameters)
    for name, value in found.items():
        known = whole.conditions.setdefault(name, value)
        whole.conditions[name] = value if known == value else "mixed"
    whole.windows += max(summary.windows for summary in repeat.summaries)
    whole.left_out += one.left_out


def _values(summaries: Iterable[Summary]) -> dict[Quantity, float]:
    """Return the figures that a person asks for first, as far as a repeat carries them."""
    metrics = {summary.metric: summary for summary in summaries}
    probe = next(iter(metrics.values())).probe
    values: dict[Quantity, float] = {}
    for names in HEADLINES.get(probe, ()):
        summary = next((metrics[name] for name in names if name in metrics), None)
        if summary is not None and summary.windows:
            values |= _of_summary(summary)
    return values


def _of_summary(summary: Summary) -> dict[Quantity, float]:
    if summary.rate is not None:
        return {Quantity(summary.metric, "rate", up=True): summary.rate}
    if summary.probe is Probe.COMPUTE:
        return {} if summary.mean is None else {Quantity(summary.metric, "mean", up=False): summary.mean}
    return {
        Quantity(summary.metric, f"p{q * 100:g}", up=False): summary.quantiles[q]
        for q in _QUANTILES
        if q in summary.quantiles
    }
