"""Leases from their receipt to their last report, on either side; while one is held the node is quiet.

grant ──refused──────────────────────────────────────────────────────────► FAILED
  │
hush: light probes pause, nothing is numbered or sent
  ├─ responder: admit ── ARMED ───────────────── revoke, deadline, silence ─► REVOKED, FAILED
  └─ initiator: run ──── RUNNING ─── end, revoke, deadline, silence ───────► DONE, REVOKED, FAILED
                                      │
speak: windows numbered, spooled; then samples; then the report with the last number
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cvmprobe.errors import ProbeError, UsageError
from cvmprobe.model.assignment import Lease, LeaseReport, LeaseState, Revoke, Side
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, VolumeTarget
from cvmprobe.model.window import Instance, Probe, Window
from cvmprobe.node.budget import Budget
from cvmprobe.node.execution import Outcome, Post, Prepare, Running, spoiled
from cvmprobe.node.light import Doorkeeper, LightProbes
from cvmprobe.node.live import Live
from cvmprobe.node.outbox import Outbox
from cvmprobe.probes.execution import Setup

__all__ = ["Leases"]

_LOG: Final = logging.getLogger(__name__)
_SILENCE_S: Final = 10.0  # without a word of the collector, leases end
_PAUSE_S: Final = 1.0  # how long light probes may take to pause
_STOP_S: Final = 10.0  # how long a probe may take to end when told to
_PREVIEW_S: Final = 1.0
_PREVIEW_WINDOWS: Final = 10  # the newest: a preview is small, however short the interval
_WINDOWS_LIMIT: Final = 10_000  # of one lease: they wait in memory until its end
_REMEMBERED: Final = 64  # ended leases, for a grant that is repeated

_ENDING: Final = "the agent is ending"
_SESSION: Final = re.compile(r"[0-9a-f]{32}")

_Key = tuple[str, Side]


@dataclass(slots=True)
class _Held:
    """One side of one lease."""

    lease: Lease
    since: float
    begun: bool = False
    running: Running | None = None
    verdict: tuple[LeaseState, str] | None = None  # why it was told to end
    told_at: float = 0.0
    fresh: list[Window] = field(default_factory=list)  # not yet shown

    @property
    def deadline(self) -> float:
        """When it has to be over, by the same clock as ``since``."""
        return self.since + self.lease.valid_for_ms / 1_000


class Leases:
    """All leases this agent holds, for one event loop; ``tick`` moves on what only waits for time."""

    def __init__(
        self,
        own: Endpoint,
        *,
        volumes: Mapping[str, Path],
        budget: Budget,
        outbox: Outbox,
        live: Live,
        light: LightProbes,
        responder: Doorkeeper,
        prepare: Prepare,
        post: Post,
        clock: Callable[[], float],
        max_pressure: float | None = None,
    ) -> None:
        self._own = own
        self._max_pressure = max_pressure
        self._volumes = volumes
        self._budget = budget
        self._outbox = outbox
        self._live = live
        self._light = light
        self._responder = responder
        self._prepare = prepare
        self._post = post
        self._clock = clock
        self._held: dict[_Key, _Held] = {}
        self._last: OrderedDict[_Key, LeaseReport] = OrderedDict()
        self._heard_at = clock()
        self._silent = False
        self._closed = False
        self._shown_at = clock()
        light.on_idle = self._begin_waiting

    @property
    def idle(self) -> bool:
        """Whether none is held."""
        return not self._held

    def heard(self) -> None:
        """Note that the collector spoke."""
        self._heard_at = self._clock()

    def grant(self, lease: Lease) -> None:
        """Take a lease; what stands against it is reported as its failure. A repeated grant repeats the last report."""
        known = self._last.get((lease.lease_id, lease.side))
        if known is not None:
            self._outbox.report(known)
            return
        try:
            self._check(lease)
            self._budget.charge(lease)
        except UsageError as error:
            _LOG.warning("lease refused lease=%s: %s", lease.lease_id, error)
            self._report(lease, LeaseState.FAILED, detail=str(error))
            return
        _LOG.info("lease granted lease=%s side=%s probe=%s", lease.lease_id, lease.side, lease.probe)
        self._held[lease.lease_id, lease.side] = _Held(lease, self._clock())
        self._outbox.quiet = True
        self._light.pause()
        self._begin_waiting()

    def revoke(self, revoke: Revoke) -> None:
        """End both sides of a lease on request."""
        for held in self._sides(revoke.lease_id):
            self._stop(held, LeaseState.REVOKED, revoke.reason)

    def close(self) -> None:
        """End all for good, and take no more."""
        self._closed = True
        for held in list(self._held.values()):
            self._stop(held, LeaseState.FAILED, _ENDING)

    def abandon(self) -> None:
        """Let go of what ``close`` has not ended."""
        for held in list(self._held.values()):
            self._give_up(held)

    def tick(self) -> None:
        """Do what is due: begin, preview, deadline, silence."""
        now = self._clock()
        self._listen(now)
        for held in list(self._held.values()):
            if now >= held.deadline:
                self._stop(held, LeaseState.FAILED, f"not over within {held.lease.valid_for_ms / 1_000:g} s")
            if held.verdict is not None and held.running is not None and now >= held.told_at + _STOP_S:
                self._give_up(held)
        self._begin_waiting()
        if now >= self._shown_at + _PREVIEW_S:
            self._shown_at = now
            self._show()

    def _listen(self, now: float) -> None:
        """End all leases in silence. Silence counts once seen twice: the first time our own loop may have been late."""
        silent = now - self._heard_at > _SILENCE_S
        if silent and self._silent:
            for held in list(self._held.values()):
                self._stop(held, LeaseState.FAILED, f"no word from the collector for {_SILENCE_S:g} s")
        self._silent = silent

    def _check(self, lease: Lease) -> None:
        if self._closed:
            raise UsageError(_ENDING)
        other = next(
            (held.lease.lease_id for held in self._held.values() if held.lease.lease_id != lease.lease_id), None
        )
        if other is not None:
            raise UsageError(f"{self._own} already holds lease {other}; one at a time")
        holder = lease.source if lease.side is Side.INITIATOR else _responder_of(lease)
        if holder != self._own:
            raise UsageError(f"the {lease.side} of this lease is {holder}, but this is {self._own}")
        if isinstance(lease.target, VolumeTarget) and lease.target.volume not in self._volumes:
            known = ", ".join(sorted(self._volumes)) or "none"
            raise UsageError(f"{self._own} has no volume {lease.target.volume!r}; it has {known}")
        if not _SESSION.fullmatch(lease.lease_id):
            raise UsageError(f"lease id {lease.lease_id!r} is not 32 hexadecimal digits")
        if lease.interval_ms <= 0 or lease.duration_ms <= 0 or lease.duration_ms > lease.valid_for_ms:
            raise UsageError(
                f"a lease of {lease.valid_for_ms} ms cannot measure {lease.duration_ms} ms in windows of "
                f"{lease.interval_ms} ms"
            )
        if lease.duration_ms // lease.interval_ms > _WINDOWS_LIMIT:
            raise UsageError(
                f"interval {lease.interval_ms} ms makes more than {_WINDOWS_LIMIT} windows: take a longer one"
            )

    def _begin_waiting(self) -> None:
        """Begin what waited for the light probes to pause."""
        now = self._clock()
        for held in list(self._held.values()):
            if not held.begun and (self._light.idle or now >= held.since + _PAUSE_S):
                held.begun = True
                self._begin(held)

    def _begin(self, held: _Held) -> None:
        lease = held.lease
        if lease.side is Side.RESPONDER:
            try:
                left_ms = max(1, int((held.deadline - self._clock()) * 1_000))
                self._responder.admit(
                    _session(lease), lease.key, lease.probe, valid_for_ms=left_ms, max_bytes=lease.max_bytes
                )
            except (ProbeError, ValueError) as error:
                self._stop(held, LeaseState.FAILED, str(error))
            else:
                self._report(lease, LeaseState.ARMED)
            return
        setup = self._setup(lease)
        held.running = Running(
            setup.instance,
            lambda: self._prepare(setup),
            keep=True,
            post=self._post,
            on_window=held.fresh.append,
            on_end=lambda outcome: self._ended(held, outcome),
        )
        self._report(lease, LeaseState.RUNNING)

    def _setup(self, lease: Lease) -> Setup:
        instance = Instance(
            assignment_id=lease.lease_id,
            probe=lease.probe,
            source=lease.source,
            target=lease.target,
            direction=lease.direction,
            repeat=lease.repeat,
            parameters=lease.parameters,
        )
        return Setup(
            instance=instance,
            interval_ms=lease.interval_ms,
            duration_ms=lease.duration_ms,
            max_bytes=lease.max_bytes,
            raw_samples=lease.raw_samples,
            peer=lease.peer,
            key=lease.key,
            volume=self._volumes[lease.target.volume] if isinstance(lease.target, VolumeTarget) else None,
            max_pressure=self._max_pressure,
        )

    def _stop(self, held: _Held, state: LeaseState, reason: str) -> None:
        if held.verdict is not None:
            return
        held.verdict = state, reason
        held.told_at = self._clock()
        if held.running is not None:
            held.running.stop()
        else:
            self._ended(held, Outcome())

    def _give_up(self, held: _Held) -> None:
        """Let go of a probe that did not stop when it was told to; what it showed so far is all there will be."""
        seen = held.running.seen if held.running is not None else []
        _LOG.error("probe does not stop lease=%s probe=%s", held.lease.lease_id, held.lease.probe)
        self._ended(held, Outcome(spoiled(seen), error="it did not stop when it was told to"))

    def _ended(self, held: _Held, outcome: Outcome) -> None:
        """Let go of a side; the last one to go lets the node speak again."""
        lease = held.lease
        if self._held.pop((lease.lease_id, lease.side), None) is not held:
            return  # it was given up before it ended
        state, detail = held.verdict or ((LeaseState.FAILED, outcome.error) if outcome.error else (LeaseState.DONE, ""))
        self._budget.settle(lease, self._used(held, outcome.totals))
        if lease.side is Side.RESPONDER:
            self._responder.revoke(_session(lease))
        else:
            for other in self._sides(lease.lease_id):
                self._stop(other, state, detail)
        windows = outcome.windows if state is LeaseState.DONE else spoiled(outcome.windows)
        self._live.publish(held.fresh)
        self._live.publish_samples(outcome.samples)
        self._outbox.add(windows)
        self._outbox.keep_samples(outcome.samples)
        if not self._held:
            self._outbox.quiet = False
            self._light.resume()
        last_seq = self._outbox.number() if windows else 0
        self._report(lease, state, detail=detail, last_seq=last_seq, totals=outcome.totals)

    def _used(self, held: _Held, totals: Mapping[str, int]) -> int | None:
        """Return the bytes a side spent of its budget; None where they were not counted."""
        if held.lease.side is Side.INITIATOR:
            return _used(held.lease, totals)
        return self._responder.spent(_session(held.lease)) if held.begun else 0

    def _show(self) -> None:
        for held in self._held.values():
            if held.fresh:
                self._outbox.show(tuple(held.fresh[-_PREVIEW_WINDOWS:]))
                self._live.publish(held.fresh)
                held.fresh.clear()

    def _sides(self, lease_id: str) -> list[_Held]:
        return [held for held in self._held.values() if held.lease.lease_id == lease_id]

    def _report(
        self,
        lease: Lease,
        state: LeaseState,
        *,
        detail: str = "",
        last_seq: int = 0,
        totals: Mapping[str, int] | None = None,
    ) -> None:
        report = LeaseReport(lease.lease_id, lease.side, state, detail, last_seq, dict(totals or {}))
        key = lease.lease_id, lease.side
        self._last[key] = report
        self._last.move_to_end(key)
        while len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
        if state.ended:
            _LOG.info("lease ended lease=%s side=%s state=%s: %s", lease.lease_id, lease.side, state, detail or "well")
        self._outbox.report(report, behind_samples=state is LeaseState.DONE)


def _session(lease: Lease) -> bytes:
    return bytes.fromhex(lease.lease_id)


def _responder_of(lease: Lease) -> Endpoint | None:
    return lease.target.endpoint if isinstance(lease.target, EndpointTarget) else None


def _used(lease: Lease, totals: Mapping[str, int]) -> int | None:
    """Bytes a lease spent of its budget; None where they were not counted."""
    if lease.probe is not Probe.DISK:
        return totals.get("sent_bytes")
    filled = totals.get("fill_bytes")
    if filled is None or not totals.keys() & {"read_bytes", "write_bytes"}:
        return None
    return filled + totals.get("write_bytes", 0)  # an engine that only reads counts no writes
