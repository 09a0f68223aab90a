"""Light probes: what the plan wants runs, what it no longer wants ends, what fails is tried again later."""

import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from cvmprobe.errors import ProbeError
from cvmprobe.model.assignment import LightProbe, Plan
from cvmprobe.model.endpoint import Endpoint
from cvmprobe.model.window import Direction, Instance, Probe, Window
from cvmprobe.node.budget import affordable
from cvmprobe.node.execution import Outcome, Post, Prepare, Running
from cvmprobe.probes.execution import Setup

__all__ = ["Doorkeeper", "LightProbes"]

_LOG: Final = logging.getLogger(__name__)
_BYTES_PER_S: Final = 125_000  # 1 Mbit/s: more is not light
_RETRY_LIMIT_S: Final = 60.0


class Doorkeeper(Protocol):
    """What is needed of ``probes.responder.Responder``."""

    def admit(self, session_id: bytes, key: bytes, probe: Probe, *, valid_for_ms: int, max_bytes: int) -> None:
        """Let in sessions that know ``key``."""
        ...

    def spent(self, session_id: bytes) -> int | None:
        """Bytes of payload that its sessions moved; None where it is not admitted."""
        ...

    def revoke(self, session_id: bytes) -> None:
        """Let nobody in any more, and end what runs."""
        ...


@dataclass(slots=True)
class _Kept:
    """One light probe of the plan, and how it fares."""

    probe: LightProbe
    running: Running | None = None
    stopping: bool = False
    wanted: bool = True
    failures: int = 0
    retry_at: float = 0.0


class LightProbes:
    """The light probes of one agent, for one event loop; ``tick`` moves on what only waits for time.

    ``take`` gets each window as it ends, ``on_idle`` is called when the last one has paused.
    """

    def __init__(
        self,
        own: Endpoint,
        *,
        operations_per_s: int,
        prepare: Prepare,
        responder: Doorkeeper,
        take: Callable[[Iterable[Window]], None],
        post: Post,
        clock: Callable[[], float],
    ) -> None:
        self._own = own
        self._operations_per_s = operations_per_s
        self._prepare = prepare
        self._responder = responder
        self._take = take
        self._post = post
        self._clock = clock
        self._kept: list[_Kept] = []
        self._ends_unix_ms: dict[str, int] = {}  # probe id -> the end of its last window, for when it starts anew
        self._admitted: frozenset[str] = frozenset()
        self._plan_ends_at = 0.0
        self._valid_for_ms = 0
        self._paused = False
        self._closed = False
        self.on_idle: Callable[[], None] = lambda: None

    @property
    def idle(self) -> bool:
        """Whether none runs."""
        return not any(kept.running for kept in self._kept)

    def adopt(self, plan: Plan) -> None:
        """Replace the plan; a probe that both plans hold goes on undisturbed."""
        self._valid_for_ms = plan.valid_for_ms
        self._plan_ends_at = self._clock() + plan.valid_for_ms / 1_000
        self._admit(plan)
        accepted, refused = affordable(plan.probes, self._operations_per_s)
        for probe_id, reason in refused.items():
            _LOG.warning("light probe refused probe=%s: budget light_operations_per_s: %s", probe_id, reason)
        wanted = {probe.probe_id: probe for probe in accepted}
        for kept in self._kept:
            kept.wanted = wanted.get(kept.probe.probe_id) == kept.probe
            if kept.wanted:
                del wanted[kept.probe.probe_id]
        self._kept += [_Kept(probe) for probe in wanted.values()]
        present = {kept.probe.probe_id for kept in self._kept}
        self._ends_unix_ms = {key: end for key, end in self._ends_unix_ms.items() if key in present}
        self.tick()

    def pause(self) -> None:
        """Let all end until ``resume``."""
        self._paused = True
        self.tick()

    def resume(self) -> None:
        """Go on with the plan."""
        self._paused = False
        self.tick()

    def close(self) -> None:
        """End all for good."""
        self._closed = True
        self.tick()

    def tick(self) -> None:
        """Start and stop what is due."""
        now = self._clock()
        may_run = not self._closed and not self._paused and now < self._plan_ends_at
        self._kept = [kept for kept in self._kept if kept.wanted or kept.running]
        for kept in self._kept:
            if kept.running is None and kept.wanted and may_run and now >= kept.retry_at:
                if not self._occupied(kept.probe.probe_id):
                    self._start(kept)
            elif kept.running is not None and not kept.stopping and not (kept.wanted and may_run):
                kept.stopping = True
                kept.running.stop()

    def _occupied(self, probe_id: str) -> bool:
        """Whether a probe of that id still runs: it changed, and one instance has one window after the other."""
        return any(kept.running is not None and kept.probe.probe_id == probe_id for kept in self._kept)

    def _start(self, kept: _Kept) -> None:
        probe = kept.probe
        instance = Instance(
            assignment_id=probe.probe_id,
            probe=probe.probe,
            source=self._own,
            target=probe.target,
            direction=Direction.FORWARD,
            repeat=0,
            parameters=probe.parameters,
        )
        setup = Setup(
            instance=instance,
            interval_ms=probe.interval_ms,
            duration_ms=None,
            max_bytes=self._max_bytes,
            raw_samples=False,
            peer=probe.peer,
            key=probe.key,
            after_unix_ms=self._ends_unix_ms.get(probe.probe_id, 0),
        )
        kept.stopping = False
        kept.running = Running(
            instance,
            lambda: self._prepare(setup),
            keep=False,
            post=self._post,
            on_window=lambda window: self._window(kept, window),
            on_end=lambda outcome: self._ended(kept, outcome),
        )

    @property
    def _max_bytes(self) -> int:
        return self._valid_for_ms * _BYTES_PER_S // 1_000

    def _window(self, kept: _Kept, window: Window) -> None:
        kept.failures = 0
        self._ends_unix_ms[kept.probe.probe_id] = window.end_unix_ms
        self._take([window])

    def _ended(self, kept: _Kept, outcome: Outcome) -> None:
        kept.running = None
        if not kept.stopping:
            kept.failures += 1
            delay_s = min(_RETRY_LIMIT_S, 2.0**kept.failures) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            kept.retry_at = self._clock() + delay_s
            why = outcome.error or "it ended by itself"
            _LOG.warning("light probe failed target=%s retry_s=%.1f: %s", kept.probe.target, delay_s, why)
        self.tick()
        if self.idle:
            self.on_idle()

    def _admit(self, plan: Plan) -> None:
        present = frozenset(admission.probe_id for admission in plan.admissions)
        for probe_id in self._admitted - present:
            self._responder.revoke(bytes.fromhex(probe_id))
        admitted: set[str] = set()
        for admission in plan.admissions:
            try:
                self._responder.admit(
                    bytes.fromhex(admission.probe_id),
                    admission.key,
                    admission.probe,
                    valid_for_ms=plan.valid_for_ms,
                    max_bytes=self._max_bytes,
                )
            except (ProbeError, ValueError) as error:
                _LOG.warning("light probe not admitted probe=%s: %s", admission.probe_id, error)
            else:
                admitted.add(admission.probe_id)
        self._admitted = frozenset(admitted)
