"""The figures people ask for first, out of windows or summaries, and the tables that show them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from cvmprobe.analysis import quantiles
from cvmprobe.cli.output import DASH, Column, tabulate
from cvmprobe.model.endpoint import Endpoint, Path, Target, VolumeTarget
from cvmprobe.model.query import Summary
from cvmprobe.model.window import Direction, Flag, Instance, Probe, Window

__all__ = [
    "Figures",
    "Measurement",
    "figures_of_summaries",
    "figures_of_window",
    "headline",
    "labels",
    "measurement",
    "tables",
]

# Metric names are a convention all probes keep. What arrived counts before what was sent.
_ARRIVED: Final = ("receiver_bytes", "sent_bytes")
_MOVED: Final = ("read_bytes", "write_bytes")
_OPERATIONS: Final = ("transactions", "reads", "writes")
_LATENCIES: Final = ("latency_ns", "total_ns")
_POINTS: Final = (0.5, 0.9, 0.99)


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
    operations_per_s: float | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    operations: int | None = None  # behind the quantiles
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
    histogram = next((window.histograms[name] for name in _LATENCIES if name in window.histograms), None)
    return Figures(
        bytes_per_s=_bytes_per_s(rates),
        operations_per_s=_operations_per_s(rates),
        quantiles={} if histogram is None else quantiles(histogram, _POINTS),
        operations=None if histogram is None else histogram.count,
        late=_late(rates),
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
    return ""


def labels(rows: Sequence[Measurement]) -> dict[Measurement, str]:
    """Name each row by its probe and by those parameters in which the rows of that probe differ."""
    values: defaultdict[tuple[Probe, str], set[str]] = defaultdict(set)
    for row in rows:
        for name, value in _traits(row):
            values[row.probe, name].add(value)
    return {
        row: " ".join(
            [row.probe, *(f"{name}={value}" for name, value in _traits(row) if len(values[row.probe, name]) > 1)]
        )
        for row in rows
    }


def tables(rows: Mapping[Measurement, Figures]) -> RenderableType:
    """Return one table for the network and one for disks, with a note on what is missing."""
    names = labels(list(rows))
    shown = [_Row(names[key], key, figures) for key, figures in rows.items()]
    network = [row for row in shown if not isinstance(row.key.target, VolumeTarget)]
    disks = [row for row in shown if isinstance(row.key.target, VolumeTarget)]
    parts: list[RenderableType] = []
    if network:
        parts += [tabulate(_NETWORK, network, "Network"), Text()]
    if disks:
        parts += [tabulate(_DISK, disks, "Disk"), Text()]
    if not parts:
        parts.append(Text("nothing was measured"))
    parts += [Text(text, style="dim") for text in _footnotes(rows.values())]
    return Group(*parts)


def _figures(metrics: Mapping[str, Summary]) -> Figures:
    rates = {name: summary.rate for name, summary in metrics.items() if summary.rate is not None}
    latency = next((metrics[name] for name in _LATENCIES if name in metrics), None)
    some = next(iter(metrics.values()))
    return Figures(
        bytes_per_s=_bytes_per_s(rates),
        operations_per_s=_operations_per_s(rates),
        quantiles={} if latency is None else latency.quantiles,
        operations=None if latency is None else latency.count,
        late=_late(rates),
        windows=max(summary.windows for summary in metrics.values()),
        left_out=some.left_out,
        flags=some.flags,
    )


def _bytes_per_s(rates: Mapping[str, float]) -> float | None:
    arrived = next((rates[name] for name in _ARRIVED if name in rates), None)
    return _sum(rates, _MOVED) if arrived is None else arrived


def _operations_per_s(rates: Mapping[str, float]) -> float | None:
    return _sum(rates, _OPERATIONS)


def _late(rates: Mapping[str, float]) -> float | None:
    operations = _operations_per_s(rates)
    return rates["late_operations"] / operations if operations and "late_operations" in rates else None


def _sum(rates: Mapping[str, float], names: Sequence[str]) -> float | None:
    known = [rates[name] for name in names if name in rates]
    return sum(known) if known else None


def _traits(row: Measurement) -> tuple[tuple[str, str], ...]:
    return (*row.parameters, ("direction", row.direction.value))


@dataclass(frozen=True, slots=True)
class _Row:
    """A measurement under its name, as a table shows it."""

    label: str
    key: Measurement
    figures: Figures


def _number(value: Callable[[Figures], float | None], form: str) -> Callable[[_Row], str]:
    def cell(row: _Row) -> str:
        number = value(row.figures)
        return DASH if number is None else format(number, form)

    return cell


def _point(q: float) -> Column[_Row]:
    return Column(
        f"p{q * 100:g} [µs]", _number(lambda figures: _times(figures.quantiles.get(q), 1e-3), ",.1f"), right=True
    )


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _remarks(row: _Row) -> str:
    parts = [f"{flag} {count}" for flag, count in sorted(row.figures.flags.items())]
    if row.figures.left_out:
        parts.append(f"{row.figures.left_out} left out")
    return ", ".join(parts) or DASH


_LATENCY = tuple(_point(q) for q in _POINTS)
_EVIDENCE = (
    Column("late [%]", _number(lambda figures: _times(figures.late, 100), ".2f"), right=True),
    Column("n", _number(lambda figures: figures.operations, ",d"), right=True),
    Column("windows", _number(lambda figures: figures.windows, "d"), right=True),
    Column("flags", _remarks),
)
_NETWORK: tuple[Column[_Row], ...] = (
    Column("measurement", lambda row: row.label),
    Column("from", lambda row: str(row.key.source)),
    Column("to", lambda row: str(row.key.target)),
    Column("path", lambda row: row.key.path or DASH),
    Column("throughput [Gbit/s]", _number(lambda figures: _times(figures.bytes_per_s, 8e-9), ".2f"), right=True),
    Column("round trips [1/s]", _number(lambda figures: figures.operations_per_s, ",.0f"), right=True),
    *_LATENCY,
    *_EVIDENCE,
)
_DISK: tuple[Column[_Row], ...] = (
    Column("measurement", lambda row: row.label),
    Column("from", lambda row: str(row.key.source)),
    Column("volume", lambda row: str(row.key.target).removeprefix("volume:")),
    Column("IOPS [1/s]", _number(lambda figures: figures.operations_per_s, ",.0f"), right=True),
    Column("throughput [MB/s]", _number(lambda figures: _times(figures.bytes_per_s, 1e-6), ",.1f"), right=True),
    *_LATENCY,
    *_EVIDENCE,
)


def _footnotes(rows: Iterable[Figures]) -> list[str]:
    kept = list(rows)
    notes = [
        "n: operations behind the quantiles; a flag stands with the number of windows, drain included, that carry it"
    ]
    if any(figures.operations is not None and not figures.quantiles.keys() >= set(_POINTS) for figures in kept):
        notes.append(f"{DASH} for a quantile q: fewer than 10 of the n operations lie above it, so it is not shown")
    if any(figures.left_out for figures in kept):
        notes.append("left out: windows the harness spoiled (overrun, cut, error); they are in no figure")
    return notes
