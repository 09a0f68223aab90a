"""One run of a suite as a state machine without I/O: rounds of leases, one after the other, to an honest end."""

import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from cvmprobe.collector.lease import Command, Grant, LeaseProgress
from cvmprobe.collector.schedule import Match
from cvmprobe.collector.ways import Peer
from cvmprobe.model.assignment import LeaseReport, LeaseState
from cvmprobe.model.endpoint import Endpoint
from cvmprobe.model.run import Cost, Run, RunState, Suite

__all__ = ["RunProgress"]

_ABSENT_MS = 10_000  # as long as an agent goes on with a lease without hearing from us


class RunProgress:
    """Executes the rounds of one run. Every method returns the commands to send.

    ``now_ms`` is a monotonic clock, ``unix_ms`` the wall's; ``peer_of`` tells where an endpoint is now, for an
    agent that restarts listens elsewhere. Leases are granted a round at a time; the next round begins when every
    lease of the one before has ended, well or badly. Nothing is retried.
    """

    def __init__(
        self,
        suite: Suite,
        scale: float,
        cost: Cost,
        rounds: Sequence[Sequence[Match]],
        *,
        peer_of: Callable[[Endpoint], Peer | None],
        now_ms: Callable[[], int],
        unix_ms: Callable[[], int],
    ) -> None:
        self.run_id = uuid.uuid4().hex
        self._suite = suite
        self._scale = scale
        self._cost = cost
        self._waiting = [list(matches) for matches in rounds]
        self._total = sum(len(matches) for matches in rounds)
        self._peer_of = peer_of
        self._now_ms = now_ms
        self._unix_ms = unix_ms
        self._started_unix_ms = unix_ms()
        self._ended_unix_ms: int | None = None
        self._state = RunState.RUNNING
        self._detail = ""
        self._leases: dict[str, LeaseProgress] = {}
        self._active: list[LeaseProgress] = []
        self._stored: dict[tuple[Endpoint, str], int] = {}
        self._absent_since_ms: dict[Endpoint, int] = {}

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self._state.ended

    @property
    def run(self) -> Run:
        """How it stands."""
        return Run(
            run_id=self.run_id,
            suite=self._suite.name,
            scale=self._scale,
            state=self._state,
            started_unix_ms=self._started_unix_ms,
            ended_unix_ms=self._ended_unix_ms,
            cost=self._cost,
            leases_total=self._total,
            leases=tuple(lease.record for lease in self._leases.values()),
            detail=self._detail,
        )

    def start(self) -> list[Command]:
        """Grant the first round."""
        return self._advance([])

    def report(self, endpoint: Endpoint, report: LeaseReport) -> list[Command]:
        """Take in how far an endpoint is with a lease."""
        lease = self._leases.get(report.lease_id)
        if lease is None:
            return []
        return self._advance(lease.report(endpoint, report) + self._settle(lease))

    def holds(self, lease_id: str) -> bool:
        """Whether this run granted that lease and it has not ended."""
        return lease_id in self._leases and not self._leases[lease_id].ended

    def stored(self, endpoint: Endpoint, start_id: str, seq: int) -> list[Command]:
        """All batches of that start of ``endpoint`` up to ``seq`` are in the store."""
        self._stored[endpoint, start_id] = seq
        return self._advance([command for lease in self._active for command in self._settle(lease)])

    def absent(self, endpoint: Endpoint) -> list[Command]:
        """Note that an endpoint is no longer attached; if it stays away, its leases have failed."""
        self._absent_since_ms.setdefault(endpoint, self._now_ms())
        return []

    def present(self, endpoint: Endpoint, start_id: str) -> list[Command]:
        """Note that an endpoint is attached. Another start than the one a lease was granted to has forgotten it.

        The same start is given its leases once more: what was sent while it was away is lost.
        """
        self._absent_since_ms.pop(endpoint, None)
        commands: list[Command] = []
        for lease in self._active:
            starts = {peer.start_id for peer in lease.match.peers if peer.endpoint == endpoint}
            if starts - {start_id}:
                commands += lease.fail(f"{endpoint} has restarted")
            elif starts:
                commands += lease.repeat(endpoint)
        return self._advance(commands)

    def tick(self) -> list[Command]:
        """Look at the clock."""
        commands = [command for lease in self._active for command in lease.tick()]
        for lease in self._active:
            for peer in lease.match.peers:
                if peer.endpoint in self._absent_since_ms and not self._may_return(peer.endpoint):
                    commands += lease.fail(f"{peer.endpoint} is not attached")
        return self._advance(commands)

    def stop(self, state: RunState, detail: str) -> list[Command]:
        """End the run now: ``cancelled`` on request, ``interrupted`` when the collector ends."""
        if self.ended:
            return []
        self._waiting.clear()
        commands = [command for lease in self._active for command in lease.revoke(detail)]
        self._finish(state, detail)
        return commands

    def _settle(self, lease: LeaseProgress) -> list[Command]:
        initiator = lease.match.initiator
        return lease.stored(self._stored.get((initiator.endpoint, initiator.start_id), -1))

    def _advance(self, commands: list[Command]) -> list[Command]:
        """Go on to the next round, or to the end, when the present one is over."""
        self._active = [lease for lease in self._active if not lease.ended]
        while not self.ended and not self._active:
            if not self._waiting:
                self._finish(*self._verdict())
                break
            if any(self._may_return(peer.endpoint) for match in self._waiting[0] for peer in match.peers):
                break  # a tick will look again
            commands = [*commands, *(command for match in self._waiting.pop(0) for command in self._grant(match))]
        return commands

    def _may_return(self, endpoint: Endpoint) -> bool:
        since_ms = self._absent_since_ms.get(endpoint)
        return since_ms is not None and self._now_ms() - since_ms < _ABSENT_MS

    def _grant(self, match: Match) -> list[Command]:
        peers = [self._peer_of(peer.endpoint) or peer for peer in match.peers]
        match = replace(match, initiator=peers[0], responder=peers[1] if match.responder else None)
        grant = Grant(uuid.uuid4().hex, self.run_id, self._suite.interval_ms, secrets.token_bytes(32))
        lease = self._leases[grant.lease_id] = LeaseProgress(match, grant, self._now_ms)
        for peer in match.peers:
            if peer.endpoint in self._absent_since_ms:
                return lease.fail(f"{peer.endpoint} is not attached")
        self._active.append(lease)
        return lease.grant()

    def _verdict(self) -> tuple[RunState, str]:
        records = [lease.record for lease in self._leases.values()]
        failed = [record for record in records if record.state != LeaseState.DONE]
        if not failed:
            return RunState.DONE, ""
        first = failed[0]
        detail = (
            f"{len(failed)} of {self._total} leases failed; the first, {first.step} "
            f"{first.instance.source} → {first.instance.target}: {first.detail}"
        )
        return (RunState.PARTIAL if len(failed) < len(records) else RunState.FAILED), detail

    def _finish(self, state: RunState, detail: str) -> None:
        self._active = []
        self._state, self._detail, self._ended_unix_ms = state, detail, self._unix_ms()
