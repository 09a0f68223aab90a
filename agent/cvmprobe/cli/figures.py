"""The figures people ask for first, out of windows or summaries."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cvmprobe.analysis import half_width, mean, quantiles
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role, Target, VolumeTarget
from cvmprobe.model.query import Summary
from cvmprobe.model.window import Direction, Flag, Instance, Probe, Window

__all__ = [
    "POINTS",
    "Figures",
    "Measurement",
    "differing",
    "figures_of_summaries",
    "figures_of_window",
    "headline",
    "labels",
    "measurement",
    "scaled",
    "short",
    "traits",
]

# Metric names are a convention all probes keep. What arrived counts before what was sent.
_ARRIVED: Final = ("receiver_bytes", "sent_bytes")
_ARRIVED_BACK: Final = "reverse_receiver_bytes"  # both directions at once count together
_MOVED: Final = ("read_bytes", "write_bytes")
_OPERATIONS: Final = ("transactions", "reads", "writes")
_UNIT: Final = "unit_fs"
_FS_PER_NS: Final = 1e6
_LATENCIES: Final = ("latency_ns", "commit_ns", "total_ns")
_HALVES: Final = {"idle": "idle_latency_ns", "loaded": "loaded_latency_ns"}
_PARTS: Final = {**_HALVES, "connect": "connect_ns", "first byte": "first_byte_ns"}
_TRIPS_OF_HALVES: Final = ("idle_transactions", "loaded_transactions")
POINTS: Final = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One kind of measurement: one row of a table."""

    source: Endpoint
    probe: Probe
    target: Target
    path: Path | None
    direction: Direction
    parameters: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one measurement; None: not known, or not of this kind. ``quantiles`` are in ns."""

    bytes_per_s: float | None = None
    back_bytes_per_s: float | None = None  # what of it came back, where both directions ran at once
    operations_per_s: float | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    operations: int | None = None  # behind the quantiles
    parts: Mapping[str, Mapping[float, float]] = field(default_factory=dict)  # quantiles of halves, or of steps
    lost: float | None = None  # share of the datagrams, or of the requests
    unit_ns: float | None = None  # time of one unit of fixed work: the mean of ``repetitions``
    unit_margin_ns: float | None = None  # half of its 95 % interval; None below two repetitions
    repetitions: int | None = None
    frequency_mhz: float | None = None  # of the processor after the repetitions, on average
    stolen_cpus: float | None = None  # CPU time a second that the hypervisor gave to others
    facts: Mapping[str, str] = field(default_factory=dict)
    late: float | None = None  # share of the operations that started late
    windows: int = 0
    left_out: int = 0
    flags: Mapping[Flag, int] = field(default_factory=dict)


def measurement(of: Instance | Summary) -> Measurement:
    """Return the row something belongs to."""
    return Measurement(of.source, of.probe, of.target, of.path, of.direction, tuple(sorted(of.parameters.items())))


def figures_of_window(window: Window) -> Figures:
    """Return the figures of one window alone."""
    seconds = window.duration_ns / 1e9
    rates = {name: value / seconds for name, value in window.counters.items()} if seconds else {}
    latencies = (*_LATENCIES, *_HALVES.values())
    histogram = next((window.histograms[name] for name in latencies if name in window.histograms), None)
    return Figures(
        bytes_per_s=_bytes_per_s(rates),
        back_bytes_per_s=_back_bytes_per_s(rates),
        operations_per_s=_sum(rates, (*_OPERATIONS, *_TRIPS_OF_HALVES)),
        quantiles={} if histogram is None else quantiles(histogram, POINTS),
        operations=None if histogram is None else histogram.count,
        late=_late(rates),
        unit_ns=scaled(mean(window.histograms[_UNIT]), 1 / _FS_PER_NS) if _UNIT in window.histograms else None,
        facts=window.facts,
        windows=1,
        flags=dict.fromkeys(window.flags, 1),
    )


def figures_of_summaries(summaries: Iterable[Summary]) -> dict[Measurement, Figures]:
    """Return the figures of every measurement, in the order in which the summaries come."""
    groups: defaultdict[Measurement, dict[str, Summary]] = defaultdict(dict)
    for summary in summaries:
        groups[measurement(summary)][summary.metric] = summary
    return {key: _figures(metrics) for key, metrics in groups.items()}


def headline(figures: Figures) -> str:
    """Return the one figure a live line shows; empty when there is none yet."""
    if figures.operations_per_s is not None:
        return f"{figures.operations_per_s:,.0f} operations/s"
    if figures.bytes_per_s is not None:
        return f"{figures.bytes_per_s * 8e-9:.2f} Gbit/s"
    return "" if figures.unit_ns is None else f"{figures.unit_ns:,.4g} ns/unit"


def differing(rows: Collection[Measurement]) -> list[str]:
    """Return the names of the parameters, direction among them, in which rows differ."""
    names = dict.fromkeys(name for row in rows for name in traits(row))
    return [name for name in names if len({traits(row).get(name) for row in rows}) > 1]


def labels(rows: Collection[Measurement]) -> dict[Measurement, str]:
    """Name each row by those parameters in which the rows of its probe differ; empty where they do not."""
    names = {probe: differing([row for row in rows if row.probe is probe]) for probe in {row.probe for row in rows}}
    return {
        row: " ".join(f"{name}={traits(row)[name]}" for name in names[row.probe] if name in traits(row)) for row in rows
    }


def traits(row: Measurement) -> dict[str, str]:
    """Return the parameters of a row, its direction among them."""
    return {**dict(row.parameters), "direction": row.direction}


def short(of: Endpoint | Target) -> str:
    """Name an endpoint by its node, as long as it is the node's agent itself; a volume by its name."""
    if isinstance(of, EndpointTarget):
        return short(of.endpoint)
    if isinstance(of, Endpoint):
        return of.node if of.role is Role.POD else str(of)
    return of.volume if isinstance(of, VolumeTarget) else str(of)


def _figures(metrics: Mapping[str, Summary]) -> Figures:
    rates = {name: summary.rate for name, summary in metrics.items() if summary.rate is not None}
    latency = next((metrics[name] for name in _LATENCIES if name in metrics), None)
    some = next(iter(metrics.values()))
    unit = metrics.get(_UNIT)
    return Figures(
        bytes_per_s=_bytes_per_s(rates),
        back_bytes_per_s=_back_bytes_per_s(rates),
        operations_per_s=_operations_per_s(rates),
        quantiles={} if latency is None else latency.quantiles,
        operations=None if latency is None else latency.count,
        parts={part: metrics[name].quantiles for part, name in _PARTS.items() if name in metrics},
        lost=_lost(rates),
        unit_ns=None if unit is None else scaled(unit.mean, 1 / _FS_PER_NS),
        unit_margin_ns=None if unit is None else _margin_ns(unit),
        repetitions=None if unit is None else unit.count,
        frequency_mhz=scaled(metrics["frequency_khz"].mean, 1e-3) if "frequency_khz" in metrics else None,
        stolen_cpus=scaled(rates.get("steal_ns"), 1e-9),
        facts=some.facts,
        late=_late(rates),
        windows=max(summary.windows for summary in metrics.values()),
        left_out=some.left_out,
        flags=some.flags,
    )


def _margin_ns(unit: Summary) -> float | None:
    return None if unit.deviation is None else half_width(unit.deviation, unit.count) / _FS_PER_NS


def scaled(value: float | None, factor: float) -> float | None:
    """Return ``value`` in a unit ``factor`` times as small; None for None."""
    return None if value is None else value * factor


def _bytes_per_s(rates: Mapping[str, float]) -> float | None:
    arrived = next((rates[name] for name in _ARRIVED if name in rates), None)
    if _ARRIVED_BACK in rates:
        return rates[_ARRIVED_BACK] + (arrived or 0)
    return _sum(rates, _MOVED) if arrived is None else arrived


def _back_bytes_per_s(rates: Mapping[str, float]) -> float | None:
    return rates.get(_ARRIVED_BACK) if any(name in rates for name in _ARRIVED) else None


def _operations_per_s(rates: Mapping[str, float]) -> float | None:
    return _sum(rates, _OPERATIONS)


def _late(rates: Mapping[str, float]) -> float | None:
    operations = _operations_per_s(rates)
    return rates["late_operations"] / operations if operations and "late_operations" in rates else None


def _lost(rates: Mapping[str, float]) -> float | None:
    """Return the share of the datagrams that never arrived; of round trips, of those that were never answered."""
    if "requests" in rates:
        unanswered = rates.get("timeouts", 0) - rates.get("late_responses", 0)
        return max(0.0, unanswered) / rates["requests"] if rates["requests"] else None
    ways = [way for way in ("", "reverse_") if f"{way}lost_datagrams" in rates and f"{way}sent_datagrams" in rates]
    sent = sum(rates[f"{way}sent_datagrams"] for way in ways)
    return sum(rates[f"{way}lost_datagrams"] for way in ways) / sent if sent else None


def _sum(rates: Mapping[str, float], names: Sequence[str]) -> float | None:
    known = [rates[name] for name in names if name in rates]
    return sum(known) if known else None
