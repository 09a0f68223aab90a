"""One lease from its grant to its end, as a state machine without I/O: reports and ticks in, commands out.

    grant ── responder's Lease ──► arming ── ARMED ──► initiator's Lease ──► granted ──► armed, running
                                     │                                            │
                                     │ FAILED, deadline, absent, revoke           │ DONE (last_seq)
                                     ▼                                            ▼
                               failed, revoked ◄── deadline ── storing ── all its windows stored ──► done

A probe without a responder starts at the initiator's Lease. Nothing is retried.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from cvmprobe.collector.schedule import Match
from cvmprobe.model.assignment import Lease, LeaseReport, LeaseState, Revoke, Side
from cvmprobe.model.endpoint import Endpoint
from cvmprobe.model.run import LeaseRecord, Step
from cvmprobe.model.window import Instance
from cvmprobe.suites.price import lease_cost

__all__ = ["Command", "Grant", "LeaseProgress", "valid_for_ms"]

_ARM_MS = 10_000
_SETTLE_MS = 10_000  # beside what the catalog allows: pausing light probes, the way of the last report
_STORE_MS = 10_000
_SLOWER = 2  # a disk may fill its file at half the speed that the catalog expects


@dataclass(frozen=True, slots=True)
class Command:
    """A message for one endpoint."""

    endpoint: Endpoint
    message: Lease | Revoke


@dataclass(frozen=True, slots=True)
class Grant:
    """What makes a lease out of a match."""

    lease_id: str
    run_id: str
    interval_ms: int
    key: bytes = field(repr=False)


def valid_for_ms(step: Step) -> int:
    """Return how long an initiator may hold the lease: measuring, and what comes before and after."""
    around_ms = int(lease_cost(step).seconds * 1_000) - step.duration_ms
    return step.duration_ms + _SLOWER * around_ms + _SETTLE_MS


class LeaseProgress:
    """One lease of a run. Every method returns the commands to send; ``now_ms`` is a monotonic clock."""

    def __init__(self, match: Match, grant: Grant, now_ms: Callable[[], int]) -> None:
        self.match = match
        self._grant = grant
        self._now_ms = now_ms
        self._state = "arming"
        self._detail = ""
        self._totals: dict[str, int] = {}
        self._deadline_ms = 0
        self._late = ""  # what is wrong when the deadline passes
        self._wanted_seq: int | None = None  # set once measured: what must be stored for the lease to be done
        self._holders: list[Endpoint] = []  # ends that may still be at work

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from it."""
        return self._state in (LeaseState.DONE, LeaseState.FAILED, LeaseState.REVOKED)

    @property
    def record(self) -> LeaseRecord:
        """How it stands."""
        match = self.match
        instance = Instance(
            assignment_id=self._grant.lease_id,
            probe=match.step.probe,
            source=match.initiator.endpoint,
            target=match.target,
            direction=match.step.direction,
            repeat=match.repeat,
            parameters=match.step.parameters,
        )
        return LeaseRecord(
            self._grant.lease_id, match.step.name, instance, self._state, self._detail, dict(self._totals)
        )

    def grant(self) -> list[Command]:
        """Begin: the responder first, where there is one."""
        responder = self.match.responder
        if responder is None:
            return self._to_initiator()
        self._expect(_ARM_MS, f"{responder.endpoint} did not report armed")
        self._holders.append(responder.endpoint)
        return [Command(responder.endpoint, self._lease(Side.RESPONDER))]

    def repeat(self, endpoint: Endpoint) -> list[Command]:
        """Send an end once more what it was sent last; one that knows it already repeats its report."""
        if endpoint not in self._holders:
            return []
        if self._state == "arming":
            return [Command(endpoint, self._lease(Side.RESPONDER))]
        if endpoint == self.match.initiator.endpoint and self._wanted_seq is None:
            return [Command(endpoint, self._lease(Side.INITIATOR))]
        return []

    def report(self, endpoint: Endpoint, report: LeaseReport) -> list[Command]:
        """Take in how far an end is. Repeats, and reports of a lease that has ended, change nothing."""
        if self.ended or self._wanted_seq is not None:
            return []
        if report.side is Side.RESPONDER:
            return self._responder_report(endpoint, report)
        return self._initiator_report(endpoint, report)

    def stored(self, seq: int) -> list[Command]:
        """All windows of the initiator up to batch ``seq`` are in the store."""
        if self.ended or self._wanted_seq is None or seq < self._wanted_seq:
            return []
        return self._end(LeaseState.DONE, "")

    def tick(self) -> list[Command]:
        """Look at the clock; a deadline that has passed fails the lease."""
        if self.ended or self._now_ms() < self._deadline_ms:
            return []
        return self._end(LeaseState.FAILED, self._late)

    def fail(self, reason: str) -> list[Command]:
        """End it badly, for a reason that neither end reported."""
        return [] if self.ended else self._end(LeaseState.FAILED, reason)

    def revoke(self, reason: str) -> list[Command]:
        """End it on request."""
        return [] if self.ended else self._end(LeaseState.REVOKED, reason)

    def _responder_report(self, endpoint: Endpoint, report: LeaseReport) -> list[Command]:
        if self.match.responder is None or endpoint != self.match.responder.endpoint:
            return []
        if report.state is LeaseState.ARMED and self._state == "arming":
            return self._to_initiator()
        if report.state in (LeaseState.FAILED, LeaseState.REVOKED):
            return self._ended_by(endpoint, report)
        return []

    def _initiator_report(self, endpoint: Endpoint, report: LeaseReport) -> list[Command]:
        if endpoint != self.match.initiator.endpoint or endpoint not in self._holders:
            return []
        if not report.state.ended:
            self._state = report.state.value
            return []
        self._totals = dict(report.totals)
        if report.state is not LeaseState.DONE:
            return self._ended_by(endpoint, report)
        self._holders.remove(endpoint)
        self._wanted_seq = report.last_seq
        self._expect(_STORE_MS, "measured, but its windows did not reach the store")
        return []

    def _ended_by(self, endpoint: Endpoint, report: LeaseReport) -> list[Command]:
        self._holders.remove(endpoint)
        return self._end(LeaseState.FAILED, f"{endpoint}: {report.detail or report.state}")

    def _to_initiator(self) -> list[Command]:
        initiator = self.match.initiator.endpoint
        self._state = "granted"
        self._expect(valid_for_ms(self.match.step) + _SETTLE_MS, f"{initiator} did not report its end")
        self._holders.append(initiator)
        return [Command(initiator, self._lease(Side.INITIATOR))]

    def _expect(self, within_ms: int, late: str) -> None:
        self._deadline_ms = self._now_ms() + within_ms
        self._late = f"{late} within {within_ms / 1_000:g} s"

    def _end(self, state: LeaseState, detail: str) -> list[Command]:
        self._state, self._detail = state.value, detail
        holders, self._holders = self._holders, []
        revoke = Revoke(self._grant.lease_id, detail or "measured")
        return [Command(holder, revoke) for holder in holders]

    def _lease(self, side: Side) -> Lease:
        match, step, initiating = self.match, self.match.step, side is Side.INITIATOR
        price = lease_cost(step)
        return Lease(
            lease_id=self._grant.lease_id,
            run_id=self._grant.run_id,
            side=side,
            probe=step.probe,
            source=match.initiator.endpoint,
            target=match.target,
            direction=step.direction,
            repeat=match.repeat,
            parameters=step.parameters,
            interval_ms=self._grant.interval_ms,
            duration_ms=step.duration_ms,
            valid_for_ms=valid_for_ms(step) + (0 if initiating else _ARM_MS),
            max_bytes=price.disk_write_bytes if match.responder is None else price.network_bytes,
            raw_samples=step.raw_samples,
            peer=match.address if initiating else None,
            key=self._grant.key,
        )
