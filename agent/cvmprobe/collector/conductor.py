"""Tells the agents what to do: plans for light probes, leases for runs, heartbeats; one run at a time."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace

from cvmprobe.collector.ingest import HEARTBEAT_MS
from cvmprobe.collector.lease import Command
from cvmprobe.collector.plans import Planner
from cvmprobe.collector.roster import Attached, Roster
from cvmprobe.collector.runs import RunProgress
from cvmprobe.collector.schedule import heavy_ways, machine_owners, matches, path_counts, rounds
from cvmprobe.collector.spending import DAY_MS, refuse_beyond, spent
from cvmprobe.config.collector import Budgets
from cvmprobe.errors import RefusedError, UsageError
from cvmprobe.model.assignment import LeaseReport, LeaseState, Plan, Revoke
from cvmprobe.model.delivery import Heartbeat
from cvmprobe.model.endpoint import Endpoint
from cvmprobe.model.run import Run, RunState
from cvmprobe.suites import load_suite, scaled
from cvmprobe.suites.price import cost

__all__ = ["Conductor", "interrupted", "monotonic_ms", "unix_ms"]

_LOG = logging.getLogger(__name__)
_TICK_S = 0.2
_LEASES_AT_ONCE = 1  # more only where pairs measured alone and together agreed, and nobody measures that yet


class Conductor:
    """Implements ``ingest.Listener``.

    ``keep`` is called with a run to be stored, whenever a lease of it was granted or has ended, or the run has.
    """

    def __init__(
        self,
        roster: Roster,
        planner: Planner,
        budgets: Budgets,
        past: Iterable[Run],
        keep: Callable[[Run], None],
        service_host: str = "",
    ) -> None:
        self._roster = roster
        self._planner = planner
        self._budgets = budgets
        self._keep = keep
        self._service_host = service_host
        self._runs = {run.run_id: run for run in past}
        self._active: RunProgress | None = None
        self._changed = asyncio.Event()
        self._plans: dict[Endpoint, tuple[Attached, Plan]] = {}
        self._plans_due = False
        self._next_heartbeat_ms = monotonic_ms()

    async def run(self) -> None:
        """Keep time until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(_TICK_S)

    def tick(self) -> None:
        """Look at the clock: heartbeats, plans, deadlines. Agents that come together get their plans together."""
        if monotonic_ms() >= self._next_heartbeat_ms:
            self._roster.broadcast(Heartbeat())
            self._next_heartbeat_ms = monotonic_ms() + HEARTBEAT_MS
            self._plans_due = True
        if self._plans_due:
            self._hand_out_plans()
            self._plans_due = False
        if self._active is not None:
            self._do(self._active.tick())

    def attached(self, attached: Attached) -> None:
        """See that a new agent gets its plan, and a run its agent back."""
        self._plans_due = True
        if self._active is not None:
            self._do(self._active.present(attached.endpoint, attached.stream.start_id))

    def detached(self, endpoint: Endpoint) -> None:
        """Let the run know."""
        if self._active is not None:
            self._do(self._active.absent(endpoint))

    def reported(self, endpoint: Endpoint, report: LeaseReport) -> None:
        """Hand a report to the run; a lease that nobody here knows is revoked: it is of a collector before us."""
        if self._active is not None and self._active.holds(report.lease_id):
            self._do(self._active.report(endpoint, report))
        elif not report.state.ended:
            self._roster.send(endpoint, Revoke(report.lease_id, "no run that is alive has this lease"))

    def stored(self, endpoint: Endpoint, start_id: str, seq: int) -> None:
        """Let the run know."""
        if self._active is not None:
            self._do(self._active.stored(endpoint, start_id, seq))

    def start_run(self, suite_name: str, scale: float, repeats: int | None = None) -> Run:
        """Start a run. Raises RefusedError when it may not start: another is alive, nobody to measure, over budget."""
        suite = scaled(load_suite(suite_name), scale, repeats)
        if self._active is not None:
            alive = self._active.run
            raise RefusedError(f"run {alive.run_id} of suite {alive.suite} is alive: wait for its end, or cancel it")
        peers = self._roster.peers()
        planned = matches(suite, peers, self._service_host)
        if not planned:
            raise RefusedError(f"suite {suite_name} finds nothing to measure: {len(peers)} agents are attached")
        price = cost(suite, path_counts(heavy_ways(peers, self._service_host)), len(machine_owners(peers)))
        refuse_beyond(self._budgets, price, spent(self._runs.values(), unix_ms() - DAY_MS))
        cut = rounds(planned, lambda match: match.occupies, _LEASES_AT_ONCE)
        self._active = RunProgress(
            suite, scale, price, cut, peer_of=self._roster.peer, now_ms=monotonic_ms, unix_ms=unix_ms
        )
        started = self._active
        _LOG.info("run %s of suite %s at scale %g: %d leases", started.run_id, suite_name, scale, len(planned))
        self._do(started.start())
        return self.get_run(started.run_id)

    def cancel_run(self, run_id: str) -> Run:
        """End a run on request; of one that has ended nothing changes."""
        self._stop(run_id, RunState.CANCELLED, "cancelled on request")
        return self.get_run(run_id)

    def stop(self) -> None:
        """End the run that is alive, if any, because the collector ends."""
        if self._active is not None:
            self._stop(self._active.run_id, RunState.INTERRUPTED, "the collector was stopped")

    def get_run(self, run_id: str) -> Run:
        """Return a run as it stands; UsageError when there is none of that id."""
        if run_id not in self._runs:
            raise UsageError(f"there is no run {run_id!r}; see: cvmprobe get runs")
        return self._runs[run_id]

    def granted(self, run_id: str, lease_id: str) -> bool:
        """Whether that lease is one of that run's."""
        return any(record.lease_id == lease_id for record in self.get_run(run_id).leases)

    def list_runs(self) -> Sequence[Run]:
        """Return all runs, newest first."""
        return sorted(self._runs.values(), key=lambda run: run.started_unix_ms, reverse=True)

    async def watch_run(self, run_id: str) -> AsyncIterator[Run]:
        """Yield a run as it stands, and at each change; a slow watcher sees the latest only."""
        shown: Run | None = None
        while shown is None or not shown.state.ended:
            changed, now = self._changed, self.get_run(run_id)
            if now != shown:
                shown = now
                yield now
            else:
                await changed.wait()

    def _stop(self, run_id: str, state: RunState, detail: str) -> None:
        if self._active is not None and self._active.run_id == run_id:
            self._do(self._active.stop(state, detail))

    def _do(self, commands: Iterable[Command]) -> None:
        """Send what the active run asks for, and note how it now stands."""
        for command in commands:
            self._roster.send(command.endpoint, command.message)
        if self._active is None:
            return
        run = self._active.run
        if self._active.ended:
            self._active = None
            _LOG.info("run %s is %s: %s", run.run_id, run.state, run.detail or "complete")
        known = self._runs.get(run.run_id)
        if known == run:
            return
        self._runs[run.run_id] = run
        if known is None or _outline(known) != _outline(run):
            self._keep(run)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _hand_out_plans(self) -> None:
        """Send its plan to every agent that does not hold one like it; responders' admissions and all."""
        for endpoint, plan in self._planner.plans(self._roster.lasting_peers()).items():
            attached = self._roster.get(endpoint)
            held = self._plans.get(endpoint)
            same = held is not None and held[0] is attached and _alike(held[1], plan)
            if attached is not None and not same:
                self._plans[endpoint] = attached, plan
                attached.send(plan)


def interrupted(run: Run, now_unix_ms: int) -> Run:
    """Return a run that was alive when its collector ended, as it must be kept."""
    leases = tuple(
        record
        if record.state in set(LeaseState) and LeaseState(record.state).ended
        else replace(record, state=LeaseState.FAILED.value, detail="the collector ended")
        for record in run.leases
    )
    return replace(
        run,
        state=RunState.INTERRUPTED,
        ended_unix_ms=now_unix_ms,
        leases=leases,
        detail="the collector ended while it ran",
    )


def monotonic_ms() -> int:
    """Return CLOCK_MONOTONIC in ms."""
    return time.monotonic_ns() // 1_000_000


def unix_ms() -> int:
    """Return wall time in ms."""
    return time.time_ns() // 1_000_000


def _outline(run: Run) -> tuple[RunState, int, int]:
    return run.state, len(run.leases), run.leases_ended


def _alike(one: Plan, other: Plan) -> bool:
    return (one.probes, one.admissions) == (other.probes, other.admissions)
