"""What runs have used in the last 24 hours, and whether another still fits into the budgets."""

from collections.abc import Iterable
from dataclasses import dataclass

from cvmprobe.config.collector import Budgets
from cvmprobe.errors import RefusedError
from cvmprobe.model.endpoint import VolumeTarget
from cvmprobe.model.run import Cost, LeaseRecord, Run

__all__ = ["DAY_MS", "Spent", "refuse_beyond", "spent"]

DAY_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Spent:
    """Bytes used."""

    network_bytes: int = 0
    disk_write_bytes: int = 0


def spent(runs: Iterable[Run], since_unix_ms: int) -> Spent:
    """Add up the leases of runs that started at or after ``since_unix_ms``.

    A run with a lease that did not tell its totals is charged what it was allowed: unknown is not nothing.
    """
    network_bytes, disk_write_bytes = 0, 0
    for run in runs:
        if run.started_unix_ms < since_unix_ms:
            continue
        used = [_used(record) for record in run.leases]
        if None in used:
            network_bytes += run.cost.network_bytes
            disk_write_bytes += run.cost.disk_write_bytes
            continue
        network_bytes += sum(one.network_bytes for one in used if one)
        disk_write_bytes += sum(one.disk_write_bytes for one in used if one)
    return Spent(network_bytes, disk_write_bytes)


def refuse_beyond(budgets: Budgets, cost: Cost, used: Spent) -> None:
    """Raise RefusedError when ``cost`` does not fit into what is left of a budget."""
    _refuse("network_bytes_per_day", budgets.network_bytes_per_day, cost.network_bytes, used.network_bytes)
    _refuse("disk_write_bytes_per_day", budgets.disk_write_bytes_per_day, cost.disk_write_bytes, used.disk_write_bytes)


def _refuse(name: str, budget: int, cost: int, used: int) -> None:
    if used + cost > budget:
        raise RefusedError(
            f"the run may use {_gib(cost)} of budget {name} = {_gib(budget)}, of which {_gib(used)} are spent: "
            "raise the budget, wait, or run at a smaller scale"
        )


def _used(record: LeaseRecord) -> Spent | None:
    """Return what one lease moved or wrote; None where it did not say."""
    totals, parameters = record.totals, record.instance.parameters
    if isinstance(record.instance.target, VolumeTarget):
        told = totals.keys() & {"read_bytes", "write_bytes"} and "fill_bytes" in totals
        return Spent(disk_write_bytes=totals["fill_bytes"] + totals.get("write_bytes", 0)) if told else None
    if "sent_bytes" in totals:
        return Spent(network_bytes=totals["sent_bytes"])
    if "transactions" in totals:
        both_ways = sum(int(parameters.get(name, "1")) for name in ("request_bytes", "response_bytes"))
        return Spent(network_bytes=totals["transactions"] * both_ways)
    return None


def _gib(value: int) -> str:
    return f"{value / (1 << 30):.1f} GiB"
