"""Everything an agent does for its collector, behind two calls: a message came, and time passed."""

import time
from collections.abc import Callable, Iterable

from cvmprobe.config.agent import AgentSettings
from cvmprobe.model.assignment import Lease, Plan, Revoke
from cvmprobe.model.endpoint import Endpoint
from cvmprobe.model.window import Window
from cvmprobe.node.budget import Budget
from cvmprobe.node.execution import Post, Prepare
from cvmprobe.node.leases import Leases
from cvmprobe.node.light import Doorkeeper, LightProbes
from cvmprobe.node.live import Live
from cvmprobe.node.outbox import Outbox
from cvmprobe.wire.handler import CollectorMessage

__all__ = ["Supervisor"]

_TURN_S = 1.0


class Supervisor:
    """Runs what the collector allows, for one event loop: ``receive`` each message, ``tick`` a few times a second."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        outbox: Outbox,
        live: Live,
        responder: Doorkeeper,
        prepare: Prepare,
        post: Post,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        own = Endpoint(settings.node, settings.role)
        self._outbox = outbox
        self._live = live
        self._clock = clock
        self._turned_at = clock()
        self._light = LightProbes(
            own,
            operations_per_s=settings.budgets.light_operations_per_s,
            prepare=prepare,
            responder=responder,
            take=self._take,
            post=post,
            clock=clock,
        )
        self._leases = Leases(
            own,
            volumes=settings.volumes,
            budget=Budget(settings.budgets, settings.state_dir / "spent.json"),
            outbox=outbox,
            live=live,
            light=self._light,
            responder=responder,
            prepare=prepare,
            post=post,
            clock=clock,
            max_pressure=settings.max_pressure_percent / 100,
        )

    @property
    def free(self) -> bool:
        """Whether no lease is held."""
        return self._leases.idle

    @property
    def idle(self) -> bool:
        """Whether nothing runs."""
        return self._leases.idle and self._light.idle

    def receive(self, message: CollectorMessage) -> None:
        """Do what the collector says. Whatever it says, it has been heard; a heartbeat says no more than that."""
        self._leases.heard()
        match message:
            case Plan():
                self._light.adopt(message)
            case Lease():
                self._leases.grant(message)
            case Revoke():
                self._leases.revoke(message)
            case _:
                pass

    def tick(self) -> None:
        """Do what is due."""
        self._leases.tick()
        self._light.tick()
        now = self._clock()
        if now >= self._turned_at + _TURN_S:
            self._turned_at = now
            self._outbox.turn()

    def close(self) -> None:
        """End all for good; it is over when ``idle``."""
        self._light.close()
        self._leases.close()

    def abandon(self) -> None:
        """Let go of what does not end."""
        self._leases.abandon()

    def _take(self, windows: Iterable[Window]) -> None:
        taken = tuple(windows)
        self._outbox.add(taken)
        self._live.publish(taken)
