"""A comparison as a table, as Markdown, and as a record for programs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from cvmprobe.analysis import KEPT_WEIGHT, MIN_REPEATS, Comparison, Quantity, Verdict
from cvmprobe.cli.output import DASH, Column, Record, four_digits, tabulate

__all__ = ["Judgement", "change", "markdown", "record", "table"]

_WOULD_TELL: Final = (
    "would tell: if spread and difference stay as they are; quieter nodes or a larger --min-effect need fewer repeats"
)
_TENFOLD: Final = 10
_LARGE: Final = 1_000
_TIMES: Final = {"ns": ("µs", 1e-3), "fs": ("ns", 1e-6)}
_NAMES: Final = {
    "receiver_bytes": ("throughput", "Gbit/s", 8e-9),
    "reverse_receiver_bytes": ("throughput back", "Gbit/s", 8e-9),
    "sent_bytes": ("throughput sent", "Gbit/s", 8e-9),
    "lost_datagrams": ("datagrams arrived", "%", 100),
    "reverse_lost_datagrams": ("datagrams arrived back", "%", 100),
    "timeouts": ("requests answered", "%", 100),
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was compared, by which measure, and what it came to."""

    a: str
    b: str
    min_effect: float
    fail_over: float
    rows: Sequence[Comparison]


def table(judgement: Judgement) -> RenderableType:
    """Return the comparison for a terminal."""
    lines = [Text(), Text(_tally(judgement)), *(Text(note, style="dim") for note in _notes(judgement))]
    return Group(Text(_title(judgement)), Text(), tabulate(_COLUMNS, judgement.rows), *lines)


def markdown(judgement: Judgement) -> str:
    """Return the comparison as a GitHub-flavoured table."""
    head = [column.header for column in _COLUMNS]
    rule = ["---:" if column.right else "---" for column in _COLUMNS]
    body = [[column.cell(row).replace("|", "\\|") for column in _COLUMNS] for row in judgement.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]
    return "\n".join([_title(judgement), "", *lines, "", _tally(judgement), "", *_notes(judgement)])


def record(judgement: Judgement) -> Record:
    """Return the comparison for programs; ratios are B / A."""
    return {
        "a": judgement.a,
        "b": judgement.b,
        "min_effect": judgement.min_effect,
        "fail_over": judgement.fail_over,
        "verdicts": dict(_count(judgement.rows)),
        "comparisons": [_row(row) for row in judgement.rows],
    }


def _row(row: Comparison) -> dict[str, object]:
    kind, quantity, contrast = row.kind, row.quantity, row.contrast
    return {
        "probe": kind.probe.value,
        "step": kind.step,
        "where": kind.where,
        "direction": kind.direction.value,
        "metric": None if quantity is None else quantity.metric,
        "point": None if quantity is None else quantity.point,
        "more_is_better": None if quantity is None else quantity.up,
        "before": row.before,
        "after": row.after,
        "repeats": list(row.repeats),
        "ratio": None if contrast is None else contrast.ratio,
        "low": None if contrast is None else contrast.low,
        "high": None if contrast is None else contrast.high,
        "p_holm": row.p,
        "verdict": row.verdict.value,
        "reason": row.reason,
        "unsound": row.unsound,
    }


def _title(judgement: Judgement) -> str:
    return f"A: {judgement.a}\nB: {judgement.b}"


def _count(rows: Sequence[Comparison]) -> Counter[str]:
    found = Counter(row.verdict.value for row in rows)
    return Counter({verdict.value: found[verdict] for verdict in Verdict if found[verdict]})


def _tally(judgement: Judgement) -> str:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in _count(judgement.rows).items())
    return f"B against A: {counts or 'nothing to compare'}"


def _notes(judgement: Judgement) -> list[str]:
    effect = judgement.min_effect
    return [
        "change: geometric means of the repeats, B by A, with the 95 % interval of each by itself (bootstrap-t);",
        f"better, worse: by more than {effect:.1%}, or {effect / KEPT_WEIGHT:.2%} of what was sent lost on the way,",
        "    at 5 % over all metrics together (Holm);",
        f"same: the whole interval is within it; undecided: neither, or under {MIN_REPEATS} repeats a side;",
        "n: repeats of A and of B that have the figure, as cvmprobe run --repeats makes them",
        *([_WOULD_TELL] if any(row.verdict is Verdict.UNDECIDED and row.contrast for row in judgement.rows) else []),
    ]


def change(ratio: float) -> str:
    """Write a ratio as a change in per cent; beyond a factor of ten as that factor, which few repeats may well give."""
    if ratio < 1 / _TENFOLD:
        return f"1/{1 / ratio:,.0f}" if ratio * _LARGE >= 1 else f"under 1/{_LARGE:,}"
    if ratio > _TENFOLD:
        return f"x {ratio:,.0f}" if ratio <= _LARGE else f"over x {_LARGE:,}"
    return f"{(ratio - 1) * 100:+.1f} %"


def _interval(row: Comparison) -> str:
    contrast = row.contrast
    return DASH if contrast is None else f"{change(contrast.low)} … {change(contrast.high)}"


def _shown_as(quantity: Quantity) -> tuple[str, str, float]:
    """Return the name, the unit and its factor under which the other tables, too, show a quantity."""
    if quantity.metric in _NAMES:
        return _NAMES[quantity.metric]
    metric, _, unit = quantity.metric.rpartition("_")
    if unit in _TIMES:
        return f"{metric} {quantity.point}", *_TIMES[unit]
    return str(quantity), "1/s", 1


def _value(of: Callable[[Comparison], float | None]) -> Callable[[Comparison], str]:
    def cell(row: Comparison) -> str:
        value = of(row)
        return DASH if value is None or row.quantity is None else four_digits(value * _shown_as(row.quantity)[2])

    return cell


def _remark(row: Comparison) -> str:
    return "; ".join(filter(None, ["unsound" if row.unsound else "", row.reason])) or DASH


_COLUMNS: tuple[Column[Comparison], ...] = (
    Column("measurement", lambda row: str(row.kind)),
    Column("metric", lambda row: DASH if row.quantity is None else _shown_as(row.quantity)[0]),
    Column("A", _value(lambda row: row.before), right=True),
    Column("B", _value(lambda row: row.after), right=True),
    Column("unit", lambda row: DASH if row.quantity is None else _shown_as(row.quantity)[1]),
    Column("change", lambda row: DASH if row.contrast is None else change(row.contrast.ratio), right=True),
    Column("95 % interval", _interval, right=True),
    Column("n", lambda row: "+".join(map(str, row.repeats)), right=True),
    Column("verdict", lambda row: row.verdict),
    Column("why", _remark),
)
