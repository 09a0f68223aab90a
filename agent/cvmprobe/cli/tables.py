"""The tables a run ends with: one for each probe, with those columns it can fill."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from cvmprobe.cli.costs import COST_MEANING, cost_table, costs_of_leases
from cvmprobe.cli.figures import POINTS, Figures, Measurement, differing, scaled, short, traits
from cvmprobe.cli.output import DASH, Column, four_digits, microseconds, tabulate
from cvmprobe.cli.progress import describe
from cvmprobe.model.assignment import LeaseState
from cvmprobe.model.endpoint import NodeTarget, VolumeTarget
from cvmprobe.model.run import Run
from cvmprobe.model.window import Probe

__all__ = ["summary_table", "tables"]


@dataclass(frozen=True, slots=True)
class _Row:
    """A measurement as a table shows it."""

    key: Measurement
    figures: Figures


def tables(rows: Mapping[Measurement, Figures], runs: Sequence[Run]) -> RenderableType:
    """Return one table for each probe, in the order of ``Probe``; below them what of ``runs`` failed, and why."""
    probes: defaultdict[Probe, list[_Row]] = defaultdict(list)
    for key, figures in rows.items():
        probes[key.probe].append(_Row(key, figures))
    parts: list[RenderableType] = []
    for probe in filter(probes.__contains__, Probe):
        parts += [tabulate(_columns(probes[probe]), probes[probe], probe), Text()]
    if not parts:
        parts.append(Text("nothing was measured"))
    if costs := costs_of_leases([lease for run in runs for lease in run.leases]):
        parts += [cost_table(costs), Text(COST_MEANING, style="dim"), Text()]
    if failures := [line for run in runs for line in _failures(run)]:
        parts += [*map(Text, failures), Text()]
    parts += [Text(text, style="dim") for text in [*_footnotes(rows.values()), *_shortened(runs)]]
    return Group(*parts)


def summary_table(key: Measurement, figures: Figures) -> RenderableType:
    """Return the figures of one measurement, whose places a person knows."""
    notes = [Text(text, style="dim") for text in _footnotes([figures])]
    return Group(tabulate(_columns([row := _Row(key, figures)], places=False), [row]), Text(), *notes)


def _columns(rows: list[_Row], *, places: bool = True) -> list[Column[_Row]]:
    """Choose the columns these rows can fill."""
    if all(isinstance(row.key.target, NodeTarget) for row in rows):
        return [*([_FROM] if places else []), *_COMPUTE, *_beside(rows), _FLAGS]
    disk = all(isinstance(row.key.target, VolumeTarget) for row in rows)
    latency = any(row.figures.operations is not None for row in rows)
    columns = [_trait(name) for name in differing([row.key for row in rows])]
    if places:
        columns += [_FROM, _VOLUME] if disk else [_FROM, _TO, _PATH]
    if any(row.figures.operations_per_s is not None for row in rows):
        columns.append(_IOPS if disk else _exchanges(rows))
    columns += _parts(rows)
    if any(row.figures.bytes_per_s is not None for row in rows):
        columns.append(_DISK_THROUGHPUT if disk else _THROUGHPUT)
    columns += [_BACK] if any(row.figures.back_bytes_per_s is not None for row in rows) else []
    columns += [_LOST] if any(row.figures.lost is not None for row in rows) else []
    columns += [*_QUANTILES, _LATE, _N] if latency else [_WINDOWS]
    return [*columns, _FLAGS]


def _exchanges(rows: list[_Row]) -> Column[_Row]:
    return _CONNECTIONS if all(row.key.probe is Probe.TCP_CRR for row in rows) else _TRIPS


def _beside(rows: list[_Row]) -> list[Column[_Row]]:
    """Choose what stands beside the compute kernels, where a node tells it."""
    columns = []
    if any(row.figures.frequency_mhz is not None for row in rows):
        columns.append(_FREQUENCY)
    if any(row.figures.stolen_cpus is not None for row in rows):
        columns.append(_STEAL)
    return columns


def _trait(name: str) -> Column[_Row]:
    return Column(name, lambda row: traits(row.key).get(name, DASH))


def _number(value: Callable[[Figures], float | None], form: str) -> Callable[[_Row], str]:
    def cell(row: _Row) -> str:
        number = value(row.figures)
        return DASH if number is None else format(number, form)

    return cell


def _point(q: float) -> Column[_Row]:
    return Column(f"p{q * 100:g}", lambda row: microseconds(row.figures.quantiles.get(q)), unit="µs", right=True)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole * 100


def _kib(size_bytes: str | None) -> str:
    return f"{int(size_bytes) >> 10:,d}" if size_bytes and size_bytes.isdecimal() else DASH


def _remarks(row: _Row) -> str:
    parts = [f"{flag} {count}" for flag, count in sorted(row.figures.flags.items())]
    if row.figures.left_out:
        parts.append(f"{row.figures.left_out} of {row.figures.windows + row.figures.left_out} left out")
    elif not row.figures.windows:
        parts.append("ended before it was steady")
    return ", ".join(parts) or DASH


_FROM: Column[_Row] = Column("from", lambda row: short(row.key.source))
_TO: Column[_Row] = Column("to", lambda row: short(row.key.target))
_PATH: Column[_Row] = Column("path", lambda row: row.key.path or DASH)
_VOLUME: Column[_Row] = Column("volume", lambda row: short(row.key.target))
_TRIPS: Column[_Row] = Column("rate", _number(lambda figures: figures.operations_per_s, ",.0f"), unit="1/s", right=True)
_CONNECTIONS: Column[_Row] = Column(
    "connections", _number(lambda figures: figures.operations_per_s, ",.0f"), unit="1/s", right=True
)
_LOST: Column[_Row] = Column("lost", _number(lambda figures: scaled(figures.lost, 100), ".3f"), unit="%", right=True)
_IOPS: Column[_Row] = Column("IOPS", _number(lambda figures: figures.operations_per_s, ",.0f"), unit="1/s", right=True)
_THROUGHPUT: Column[_Row] = Column(
    "throughput", _number(lambda figures: scaled(figures.bytes_per_s, 8e-9), ".2f"), unit="Gbit/s", right=True
)
_BACK: Column[_Row] = Column(
    "of it back", _number(lambda figures: scaled(figures.back_bytes_per_s, 8e-9), ".2f"), unit="Gbit/s", right=True
)
_DISK_THROUGHPUT: Column[_Row] = Column(
    "throughput", _number(lambda figures: scaled(figures.bytes_per_s, 1e-6), ",.1f"), unit="MB/s", right=True
)


def _parts(rows: list[_Row]) -> list[Column[_Row]]:
    """Return the columns of what a probe tells apart: halves of its time with their ratio, or steps."""
    names = dict.fromkeys(name for row in rows for name in row.figures.parts)
    columns = [_part(name, q) for name in names for q in (0.5, 0.99)]
    return [*columns, _ratio(0.5), _ratio(0.99)] if "loaded" in names else columns


def _part(part: str, q: float) -> Column[_Row]:
    def cell(row: _Row) -> str:
        return microseconds(row.figures.parts.get(part, {}).get(q))

    return Column(f"{part} p{q * 100:g}", cell, unit="µs", right=True)


def _ratio(q: float) -> Column[_Row]:
    def cell(row: _Row) -> str:
        idle, loaded = (row.figures.parts.get(half, {}).get(q) for half in ("idle", "loaded"))
        return f"{loaded / idle:.2f}" if idle and loaded else DASH

    return Column(f"p{q * 100:g} ratio", cell, right=True)


_QUANTILES: Final = tuple(_point(q) for q in POINTS)
_LATE: Column[_Row] = Column("late", _number(lambda figures: scaled(figures.late, 100), ".2f"), unit="%", right=True)
_N: Column[_Row] = Column("n", _number(lambda figures: figures.operations, ",d"), right=True)
_COMPUTE: Final[tuple[Column[_Row], ...]] = (
    Column("kernel", lambda row: dict(row.key.parameters).get("kernel", DASH)),
    Column("engine", lambda row: row.figures.facts.get("engine", DASH)),
    Column("level", lambda row: dict(row.key.parameters).get("level", DASH)),
    Column("size", lambda row: _kib(row.figures.facts.get("size_bytes")), unit="KiB", right=True),
    Column("unit", lambda row: row.figures.facts.get("unit", DASH)),
    Column("time", lambda row: four_digits(row.figures.unit_ns), unit="ns", right=True),
    Column("±", _number(lambda figures: _share(figures.unit_margin_ns, figures.unit_ns), ".2f"), unit="%", right=True),
    Column("n", _number(lambda figures: figures.repetitions, "d"), right=True),
)
_FREQUENCY: Column[_Row] = Column(
    "frequency", _number(lambda figures: figures.frequency_mhz, ",.0f"), unit="MHz", right=True
)
_STEAL: Column[_Row] = Column(
    "steal", _number(lambda figures: scaled(figures.stolen_cpus, 100), ".2f"), unit="% of a CPU", right=True
)
_WINDOWS: Column[_Row] = Column("windows", _number(lambda figures: figures.windows, "d"), right=True)
_FLAGS: Column[_Row] = Column("flags", _remarks)


def _failures(run: Run) -> list[str]:
    lines = [
        f"failed: {lease.step}  {describe(lease.instance)}: {lease.detail or 'no reason given'}"
        for lease in run.leases
        if lease.state in (LeaseState.FAILED, LeaseState.REVOKED)
    ]
    if run.state.ended and run.leases_total > len(run.leases):
        lines.append(f"never begun: {run.leases_total - len(run.leases)} of {run.leases_total} measurements")
    return list(dict.fromkeys(lines))  # repeats that failed alike are told once


def _shortened(runs: Sequence[Run]) -> list[str]:
    """Say that figures are of a shorter run than the suite is: its files may fit a cache, its tails hold few."""
    scales = dict.fromkeys(f"{run.suite} at scale {run.scale:g}" for run in runs if run.scale != 1)
    return [f"{scale}: durations and file sizes are so much of the suite's, and bear less" for scale in scales]


def _footnotes(rows: Iterable[Figures]) -> list[str]:
    kept = list(rows)
    notes = []
    if any(figures.operations is not None for figures in kept):
        notes.append("n: operations behind the quantiles; late: paced operations that started over 1 ms late")
    if any(figures.operations is not None and not figures.quantiles.keys() >= set(POINTS) for figures in kept):
        notes.append(f"{DASH} for a quantile q: fewer than 10 of the n operations lie above it, so it is not shown")
    if any("loaded" in figures.parts for figures in kept):
        notes.append(
            "idle: round trips alone; loaded: beside the stream, whose throughput stands there; ratio: of both"
        )
    if any(figures.unit_ns is not None for figures in kept):
        notes.append("time: of one unit, the mean of n repetitions; ±: half of its 95 % interval (Student's t)")
    advice = dict.fromkeys(figures.facts["etcd_advice"] for figures in kept if "etcd_advice" in figures.facts)
    notes += [f"wal: p50 to p99 of append and sync together; etcd's advice is {said}" for said in advice]
    ended = dict.fromkeys(figures.facts["ended"] for figures in kept if "ended" in figures.facts)
    notes += [f"ended before its time: {said}" for said in ended]
    if any(figures.flags for figures in kept):
        notes.append("flags: how many windows carry each, those of the drain included")
    if any(figures.left_out for figures in kept):
        notes.append("left out: windows the harness spoiled (overrun, cut, error); they are in no figure")
    return notes
