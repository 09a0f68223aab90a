"""What measurements cost in CPU time at both ends: the whole node's beyond its idle baseline, and the engine's own.

As netperf has it: µs for each KB (1024 bytes) of a stream, or for each transaction.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from rich.console import RenderableType

from cvmprobe.cli.figures import Measurement, labels, measurement, short
from cvmprobe.cli.output import DASH, Column, tabulate
from cvmprobe.model.run import LeaseRecord

__all__ = ["COST_MEANING", "Cost", "cost_note", "cost_of", "cost_table", "costs_of_leases"]

_OPERATIONS: Final = ("transactions", "connections")
_KB: Final = 1024
_PLAUSIBLE: Final = 0.9  # a node's cost holds that of the probe's threads: with less than this share it is not known
COST_MEANING: Final = (
    "node: all CPUs of an end, kernel and softirq included, minus what they did before (- where they did too much for"
    " that); own: the threads of the probe"
)
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time in µs for each ``unit``; None: not known, or lost among what the node did besides."""

    unit: str
    node_here: float | None
    node_there: float | None
    own_here: float | None
    own_there: float | None


def cost_of(totals: Mapping[str, int]) -> Cost | None:
    """Return what an execution cost by its totals; None where it moved nothing, or was no network probe's."""
    operations = next((name for name in _OPERATIONS if totals.get(name)), None)
    moved = sum(totals.get(name, 0) for name in ("receiver_bytes", "reverse_receiver_bytes"))
    amount = totals[operations] if operations else moved / _KB
    there = totals.get("responder_cpu_ns", totals.get("receiver_cpu_ns"))
    if not amount or (there is None and "responder_node_busy_ns" not in totals):
        return None

    def beyond(end: str, spent_ns: int | None) -> float | None:
        busy, baseline = totals.get(f"{end}node_busy_ns"), totals.get(f"{end}node_baseline_ns")
        if busy is None or baseline is None or busy - baseline <= _PLAUSIBLE * (spent_ns or 0):
            return None
        return (busy - baseline) / 1_000 / amount

    def own(spent_ns: int | None) -> float | None:
        return None if spent_ns is None else spent_ns / 1_000 / amount

    unit = operations.removesuffix("s") if operations else "KB"
    here = totals.get("cpu_ns")
    return Cost(unit, beyond("", here), beyond("responder_", there), own(here), own(there))


def costs_of_leases(leases: Iterable[LeaseRecord]) -> dict[Measurement, Cost]:
    """Return the cost of each measurement, its repeats taken together."""
    sums: dict[Measurement, Counter[str]] = {}
    for lease in leases:
        if lease.totals:
            sums.setdefault(measurement(lease.instance), Counter()).update(lease.totals)
    return {key: cost for key, totals in sums.items() if (cost := cost_of(totals)) is not None}


def cost_table(costs: Mapping[Measurement, Cost]) -> RenderableType:
    """Return a table of costs, one measurement a row."""
    names = labels(list(costs))
    columns: list[Column[tuple[Measurement, Cost]]] = [
        Column("measurement", lambda row: f"{row[0].probe} {names[row[0]]}".strip()),
        Column("from", lambda row: short(row[0].source)),
        Column("to", lambda row: short(row[0].target)),
        Column("path", lambda row: row[0].path or DASH),
        *_columns(lambda row: row[1]),
    ]
    return tabulate(columns, costs.items(), "CPU cost")


def cost_note(cost: Cost) -> str:
    """Return a cost as one line."""
    cells = [f"{column.title} {column.cell(cost)}" for column in _columns(lambda each: each)]
    return f"CPU cost in µs: {', '.join(cells)}"


def _columns(of: Callable[[_Row], Cost]) -> list[Column[_Row]]:
    def figure(title: str, value: Callable[[Cost], float | None]) -> Column[_Row]:
        return Column(title, lambda row: _written(value(of(row))), unit="µs", right=True)

    return [
        Column("per", lambda row: of(row).unit),
        figure("node here", lambda cost: cost.node_here),
        figure("node there", lambda cost: cost.node_there),
        figure("own here", lambda cost: cost.own_here),
        figure("own there", lambda cost: cost.own_there),
    ]


def _written(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"
