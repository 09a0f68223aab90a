"""Short runs of the real engines in this process, a few seconds each, as the sides of a comparison.

The same probes, windows and analysis as a run of a suite; only collector, store and wire are left out.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

from cvmprobe.analysis import Side, series
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, NodeTarget, Path, PeerAddress, Role
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import Direction, Instance, Probe, Window
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.execution import Setup
from cvmprobe.probes.responder import Responder

HERE, THERE = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
COMPUTE = {
    kernel: (Probe.COMPUTE, 5_000, {"kernel": kernel, "repetition_ms": "20", "repetitions": "5", **more})
    for kernel, more in {"integer": {}, "chase": {"level": "l2"}, "aes": {}, "syscall": {}}.items()
}
NETWORK = {
    "rr": (Probe.TCP_RR, 400, {"wait": "block", "omit_ms": "100"}),
    "stream": (Probe.TCP_STREAM, 400, {"omit_ms": "100"}),
}


class Recording:
    """The windows of one side, and the leases they would have had in a run."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._windows: list[Window] = []
        self._leases: list[LeaseRecord] = []

    def repeat(self, number: int, steps: dict[str, tuple[Probe, int, dict[str, str]]]) -> None:
        """Execute every step once."""
        for step, (probe, duration_ms, parameters) in steps.items():
            network = probe is not Probe.COMPUTE
            target = EndpointTarget(THERE, Path.LOOPBACK) if network else NodeTarget()
            direction = Direction.FORWARD if network else Direction.NONE
            instance = Instance(uuid.uuid4().hex, probe, HERE, target, direction, number, parameters)
            self._leases.append(LeaseRecord(instance.assignment_id, step, instance, "done", "", {}))
            self._windows += self._execute(instance, duration_ms)

    def _execute(self, instance: Instance, duration_ms: int) -> Iterator[Window]:
        key = os.urandom(32)
        session = bytes.fromhex(instance.assignment_id)
        if instance.probe is not Probe.COMPUTE:
            self._responder.admit(session, key, instance.probe, valid_for_ms=60_000, max_bytes=1 << 50)
        peer = PeerAddress("127.0.0.1", self._responder.port)
        execution = prepare(Setup(instance, 100, duration_ms, 1 << 50, peer=peer, key=key))
        list(execution.observe())
        result = execution.result()
        if result.error is not None:
            raise result.error
        yield from result.windows

    def side(self) -> Side:
        """Return what compare wants."""
        leases = tuple(self._leases)
        run = Run(uuid.uuid4().hex, "short", 1.0, RunState.DONE, 0, 1, Cost(1, 0, 0), len(leases), leases)
        return Side(series(self._windows, [run]), {"kernel": os.uname().release})


def sides(
    repeats: int,
    steps: dict[str, tuple[Probe, int, dict[str, str]]],
    *,
    interleaved: bool,
    before: Callable[[int], None] = lambda side: None,
) -> tuple[Side, Side]:
    """Return two sides: one after the other, or a repeat of each in turn. ``before`` is told whose turn is next."""
    with closing(Responder("127.0.0.1", 0)) as responder:
        made = [Recording(responder), Recording(responder)]
        order = [(number, side) for number in range(1, repeats + 1) for side in (0, 1)]
        for number, side in order if interleaved else sorted(order, key=lambda turn: turn[1]):
            before(side)
            made[side].repeat(number, steps)
        return made[0].side(), made[1].side()
