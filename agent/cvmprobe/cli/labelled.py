"""A published page re-measured: what the page calls a load, what that load really is, and the figure beside both."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from cvmprobe.cli.figures import Measurement, measurement, short
from cvmprobe.cli.output import DASH, Column, Record, microseconds, tabulate
from cvmprobe.errors import UsageError
from cvmprobe.model.query import Summary
from cvmprobe.model.run import LeaseRecord, Run, Step
from cvmprobe.model.window import Direction
from cvmprobe.suites import load_suite

__all__ = ["label_records", "labelled"]

_MIB: Final = 1 << 20
_Metrics = Mapping[str, Summary]


@dataclass(frozen=True, slots=True)
class _Row:
    """One measurement of a labelled step; without a lease it found nobody to measure."""

    step: Step
    lease: LeaseRecord | None
    metrics: _Metrics


def labelled(summaries: Iterable[Summary], runs: Iterable[Run]) -> list[RenderableType]:
    """Return the table of the labelled steps of each run's suite; nothing for a suite that has none."""
    groups: defaultdict[Measurement, dict[str, Summary]] = defaultdict(dict)
    for summary in summaries:
        groups[measurement(summary)][summary.metric] = summary
    parts: list[RenderableType] = []
    for run in runs:
        if rows := list(_rows(run, groups)):
            scale = "" if run.scale == 1 else f"; durations and sizes are {run.scale:g} of the page's"
            parts += [Text(), tabulate(_COLUMNS, rows, f"as the page of {run.suite} has it{scale}")]
    return parts


def label_records(runs: Iterable[Run]) -> list[Record]:
    """Return for programs what the steps of the runs' suites are called on a page, and what they are."""
    steps = [step for run in runs for step in _steps(run.suite)]
    return [{"step": step.name, "label": step.label, "really": step.really} for step in steps]


def _rows(run: Run, groups: Mapping[Measurement, _Metrics]) -> Iterator[_Row]:
    for step in _steps(run.suite):
        leases = {measurement(lease.instance): lease for lease in run.leases if lease.step == step.name}
        if not leases:
            yield _Row(step, None, {})
        for key, lease in leases.items():
            yield _Row(step, lease, groups.get(key, {}))


def _steps(suite: str) -> Sequence[Step]:
    """Return the labelled steps of a suite, one of each name; none of a suite that this version does not have."""
    try:
        steps = load_suite(suite).steps
    except UsageError:
        return []
    return list({step.name: step for step in steps if step.label}.values())


def _figure(row: _Row) -> str:
    """Return what was measured in the page's units, as one line."""
    if row.lease is None:
        return f"not measured: nobody here is joined by {row.step.path}" if row.step.path else "not measured"
    if not row.metrics:
        return f"not measured: {row.lease.detail or row.lease.state}"
    found = [part for figure in (_stream, _transactions, _disk) if (part := figure(row))]
    return "; ".join(found) or DASH


def _stream(row: _Row) -> str:
    rates = [_rate(row.metrics, name) for name in ("receiver_bytes", "reverse_receiver_bytes")]
    known = [rate for rate in rates if rate is not None]
    if not known:
        return ""
    streams = int(row.step.parameters.get("streams", "1"))
    whole = f"{sum(known) * 8e-6:,.0f} Mbit/s"
    if row.step.direction is Direction.BOTH:
        each = sum(known) / len(known) / streams
        return f"{whole} both ways together, {each * 8e-6:,.0f} Mbit/s a stream{_lost(row.metrics)}"
    return f"{whole}{_lost(row.metrics)}"


def _lost(metrics: _Metrics) -> str:
    sent, lost = (metrics.get(name) for name in ("sent_datagrams", "lost_datagrams"))
    return "" if sent is None or lost is None or not sent.count else f", {lost.count / sent.count:.2%} lost"


def _transactions(row: _Row) -> str:
    rate, latency = _rate(row.metrics, "transactions"), row.metrics.get("latency_ns")
    if rate is None:
        return ""
    points = {} if latency is None else latency.quantiles
    shown = [f"p{q * 100:g} {microseconds(points[q])} µs" for q in (0.5, 0.99) if q in points]
    return ", ".join([f"{rate:,.0f} round trips/s", *shown])


def _disk(row: _Row) -> str:
    parts = []
    for verb in ("read", "write"):
        operations, moved = _rate(row.metrics, f"{verb}s"), _rate(row.metrics, f"{verb}_bytes")
        if operations is not None and moved is not None:
            parts.append(f"{verb} {moved / _MIB:,.1f} MiB/s, {operations:,.0f} IOPS")
    return "; ".join(parts)


def _rate(metrics: _Metrics, name: str) -> float | None:
    summary = metrics.get(name)
    return None if summary is None or not summary.windows else summary.rate


def _path(row: _Row) -> str:
    path = None if row.lease is None else row.lease.instance.path
    if path is None:
        return DASH
    return path if path is row.step.path else f"{path}, for want of {row.step.path}"


def _of_lease(value: Callable[[LeaseRecord], str]) -> Callable[[_Row], str]:
    return lambda row: DASH if row.lease is None else value(row.lease)


_COLUMNS: Final[tuple[Column[_Row], ...]] = (
    Column("the page's label", lambda row: row.step.label),
    Column("what it really is", lambda row: row.step.really),
    Column("from", _of_lease(lambda lease: short(lease.instance.source))),
    Column("to", _of_lease(lambda lease: short(lease.instance.target))),
    Column("path", _path),
    Column("figure", _figure),
    Column("engine", lambda row: next(iter(row.metrics.values())).facts.get("engine", DASH) if row.metrics else DASH),
)
