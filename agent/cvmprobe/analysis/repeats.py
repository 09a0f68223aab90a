"""From windows to one value for each repeat, metric and kind of measurement: what two runs are compared by."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from statistics import geometric_mean

from cvmprobe.analysis.summary import summarize
from cvmprobe.model.query import Summary
from cvmprobe.model.run import LeaseRecord, Run
from cvmprobe.model.window import Direction, Instance, Probe, Window

__all__ = ["Kind", "Quantity", "Series", "series"]

# Names of metrics are a convention that all probes keep; of each tuple the first that is known.
_RATES = (("receiver_bytes", "sent_bytes"), ("reverse_receiver_bytes",), ("transactions",), ("reads",), ("writes",))
_LATENCIES = (
    ("latency_ns",),
    ("idle_latency_ns",),
    ("loaded_latency_ns",),
    ("commit_ns", "total_ns"),
    ("sync_ns",),
)
_MEANS = ("unit_fs",)
_LOSSES = (  # what was lost, and of what: compared is the share that was not, since no ratio can be taken of no loss
    ("lost_datagrams", "sent_datagrams"),
    ("reverse_lost_datagrams", "reverse_sent_datagrams"),
    ("timeouts", "requests"),
)
_QUANTILES = (0.5, 0.99)
# Facts that make a figure what it is; others, such as the name of a device, may differ between two nodes.
_CONDITIONS = (
    "engine",
    "congestion_control",
    "wait",
    "receive",
    "send_offload",
    "receive_offload",
    "sndbuf_bytes",
    "rcvbuf_bytes",
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
    point: str  # rate, mean, a quantile as p99, or ``kept``: the share that was not lost
    up: bool

    @property
    def quantile(self) -> bool:
        """Whether a repeat needs many operations to carry it."""
        return self.point.startswith("p")

    @property
    def kept(self) -> bool:
        """Whether it is a share that was not lost: of 1, where nothing is wrong."""
        return self.point == "kept"

    def __str__(self) -> str:
        return f"{self.metric} {self.point}"


@dataclass(slots=True)
class Series:
    """The values of the repeats of one kind, and what they were measured under.

    The value of a repeat is the geometric mean of its pairs'; one that lacks a pair has none.
    """

    values: dict[Quantity, list[float]] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    repeats: int = 0  # that were begun: also those that failed, and those whose figure is 0
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
        return _kind(self.step, self.summaries[0])

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
    found = defaultdict(Series, {kind: _series(list(group)) for kind, group in groupby(kept, key=lambda one: one.kind)})
    for kind, begun in _begun(kept, leases.values()).items():
        found[kind].repeats = len(begun)
    return dict(found)


def _kind(step: str, of: Instance | Summary) -> Kind:
    return Kind(of.probe, step, str(of.path or of.target), of.direction)


def _begun(repeats: Iterable[_Repeat], leases: Iterable[tuple[str, LeaseRecord]]) -> dict[Kind, set[tuple[str, int]]]:
    """Return which repeats of each kind were begun, also those that left no window."""
    begun: defaultdict[Kind, set[tuple[str, int]]] = defaultdict(set)
    for one in repeats:
        begun[one.kind].add((one.run, one.number))
    for run, record in leases:
        begun[_kind(record.step, record.instance)].add((run, record.instance.repeat))
    return begun


def _repeat(assignment: str, windows: list[Window], leases: Mapping[str, tuple[str, LeaseRecord]]) -> _Repeat:
    instance = windows[0].instance
    run, record = leases.get(assignment, (assignment, None))
    parameters = " ".join(f"{name}={value}" for name, value in sorted(instance.parameters.items()))
    return _Repeat(run, instance.repeat, record.step if record else parameters, summarize(windows))


def _series(repeats: list[_Repeat]) -> Series:
    whole = Series()
    found: defaultdict[Quantity, list[list[float]]] = defaultdict(list)
    places = 0
    for _, group in groupby(repeats, key=lambda one: one.place):
        pairs: defaultdict[Quantity, list[float]] = defaultdict(list)
        executions = list(group)
        places = max(places, len(executions))
        for one in executions:
            _describe(whole, one)
            for quantity, value in _values(one.summaries).items():
                pairs[quantity].append(value)
        for quantity, values in pairs.items():
            found[quantity].append(values)
    whole.conditions["nodes" if repeats[0].summaries[0].path is None else "pairs"] = str(places)
    for quantity, each in found.items():
        pair_count = max(map(len, each))
        values = [geometric_mean(one) for one in each if len(one) == pair_count and min(one) > 0]
        if values:  # of nothing no ratio can be taken
            whole.values[quantity] = values
    return whole


def _describe(whole: Series, repeat: _Repeat) -> None:
    """Note what a repeat was measured under; what differs between repeats is ``mixed``."""
    one = repeat.summaries[0]
    found = dict(one.parameters) | {name: one.facts[name] for name in _CONDITIONS if name in one.facts}
    for name, value in found.items():
        known = whole.conditions.setdefault(name, value)
        whole.conditions[name] = value if known == value else "mixed"
    whole.windows += max(summary.windows for summary in repeat.summaries)
    whole.left_out += one.left_out


def _values(summaries: Iterable[Summary]) -> dict[Quantity, float]:
    """Return the figures of a repeat that two runs are compared by, as far as it carries them."""
    metrics = {summary.metric: summary for summary in summaries if summary.windows}
    return dict([*_rates(metrics), *_shares(metrics), *_times(metrics)])


def _rates(metrics: Mapping[str, Summary]) -> Iterator[tuple[Quantity, float]]:
    for names in _RATES:
        found = _first(metrics, names)
        if found is not None and found.rate is not None:
            yield Quantity(found.metric, "rate", up=True), found.rate


def _shares(metrics: Mapping[str, Summary]) -> Iterator[tuple[Quantity, float]]:
    for lost, sent in _LOSSES:
        if lost in metrics and sent in metrics and metrics[sent].count:
            yield Quantity(lost, "kept", up=True), 1 - metrics[lost].count / metrics[sent].count


def _times(metrics: Mapping[str, Summary]) -> Iterator[tuple[Quantity, float]]:
    for name in _MEANS:
        mean = metrics[name].mean if name in metrics else None
        if mean is not None:
            yield Quantity(name, "mean", up=False), mean
    for names in _LATENCIES:
        found = _first(metrics, names)
        for q in _QUANTILES:
            if found is not None and q in found.quantiles:
                yield Quantity(found.metric, f"p{q * 100:g}", up=False), found.quantiles[q]


def _first(metrics: Mapping[str, Summary], names: Iterable[str]) -> Summary | None:
    return next((metrics[name] for name in names if name in metrics), None)
