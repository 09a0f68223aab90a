"""What this node may still spend today, and the record of what it spent, which outlives a restart."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from cvmprobe.config.agent import AgentBudgets
from cvmprobe.errors import UsageError
from cvmprobe.model.assignment import Lease, LightProbe
from cvmprobe.model.window import Probe

__all__ = ["Budget", "affordable"]

_LOG: Final = logging.getLogger(__name__)
_FREE: Final = frozenset({Probe.COMPUTE, Probe.API})  # they move no payload and write no volume


class _Ledger(msgspec.Struct):
    """Bytes charged on one UTC day, by the name of the budget."""

    day: str
    spent: dict[str, int]


class Budget:
    """Charges leases at their upper bound before they begin; a limit that was not given is 0.

    ``ledger`` is the file that keeps the record; where it cannot be written the record lives in memory only,
    and a restart forgets it.
    """

    def __init__(
        self,
        limits: AgentBudgets,
        ledger: Path,
        today: Callable[[], str] = lambda: datetime.now(UTC).date().isoformat(),
    ) -> None:
        self._limits = {"heavy_bytes_per_day": limits.heavy_bytes_per_day}
        self._limits["disk_write_bytes_per_day"] = limits.disk_write_bytes_per_day
        self._path = ledger
        self._today = today
        self._charged: dict[str, int] = {}  # lease id -> bytes, of the leases that have not ended
        self._ledger = _read(ledger) or _Ledger(today(), {})

    def charge(self, lease: Lease) -> None:
        """Set ``lease.max_bytes`` aside; both sides of one lease on one node count once. Raises UsageError."""
        if lease.probe in _FREE or lease.lease_id in self._charged:
            return
        name = _budget_of(lease.probe)
        limit, spent = self._limits[name], self._spent(name)
        if spent + lease.max_bytes > limit:
            raise UsageError(
                f"budget {name} of this node is {limit} bytes, of which {max(limit - spent, 0)} are left today; "
                f"the lease may use {lease.max_bytes}"
            )
        self._charged[lease.lease_id] = lease.max_bytes
        self._write(name, spent + lease.max_bytes)

    def settle(self, lease: Lease, used: int | None) -> None:
        """Give back what an ended lease did not use; None: nobody counted, so it used all."""
        charged = self._charged.pop(lease.lease_id, 0)
        if used is not None and used < charged:
            name = _budget_of(lease.probe)
            self._write(name, max(self._spent(name) - (charged - used), 0))

    def _spent(self, name: str) -> int:
        if self._ledger.day != self._today():
            self._ledger = _Ledger(self._today(), {})
        return self._ledger.spent.get(name, 0)

    def _write(self, name: str, spent: int) -> None:
        self._ledger.spent[name] = spent
        aside = self._path.with_suffix(".new")
        try:
            aside.write_bytes(msgspec.json.encode(self._ledger))
            aside.replace(self._path)
        except OSError as error:
            _LOG.warning("what was spent is recorded in memory only: %s: %s", self._path, error.strerror)


def affordable(probes: Sequence[LightProbe], operations_per_s: int) -> tuple[list[LightProbe], dict[str, str]]:
    """Return the light probes that fit into ``operations_per_s`` in their order, and why each other does not."""
    accepted: list[LightProbe] = []
    refused: dict[str, str] = {}
    left = float(operations_per_s)
    for probe in probes:
        rate = _rate(probe)
        if rate is None:
            refused[probe.probe_id] = f"a light probe must state its rate_per_s, not {probe.parameters!r}"
        elif rate > left:
            refused[probe.probe_id] = f"{rate:g} operations/s are asked for, {left:g} of {operations_per_s} are left"
        else:
            left -= rate
            accepted.append(probe)
    return accepted, refused


def _rate(probe: LightProbe) -> float | None:
    with suppress(KeyError, ValueError):
        rate = float(probe.parameters["rate_per_s"])
        return rate if 0 < rate < float("inf") else None
    return None


def _budget_of(probe: Probe) -> str:
    return "disk_write_bytes_per_day" if probe is Probe.DISK else "heavy_bytes_per_day"


def _read(path: Path) -> _Ledger | None:
    with suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
        return msgspec.json.decode(path.read_bytes(), type=_Ledger)
    return None
