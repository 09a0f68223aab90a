"""Executions of probes with a peer: set up, admitted, and run to their end."""

import os
import uuid

from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, PeerAddress, Role
from cvmprobe.model.window import Direction, Instance
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.execution import Setup

PLENTY = 1 << 50
A, B = Endpoint("a", Role.POD), Endpoint("b", Role.POD)


def setup_of(probe, port, *, key=b"k" * 32, assignment_id=None, direction=Direction.FORWARD, **asked) -> Setup:
    settings = {"interval_ms": 50, "duration_ms": 200, "max_bytes": PLENTY, "raw_samples": False}
    given = {name: asked.pop(name) for name in list(asked) if name in settings}
    parameters = {name: str(value) for name, value in asked.items()}
    instance = Instance(
        assignment_id or uuid.uuid4().hex, probe, A, EndpointTarget(B, Path.LOOPBACK), direction, 0, parameters
    )
    return Setup(instance, **(settings | given), peer=PeerAddress("127.0.0.1", port), key=key)


def admitted(responder, probe, **asked) -> Setup:
    setup = setup_of(probe, responder.port, key=os.urandom(32), **asked)
    session_id = bytes.fromhex(setup.instance.assignment_id)
    responder.admit(session_id, setup.key, probe, valid_for_ms=60_000, max_bytes=setup.max_bytes)
    return setup


def run(setup):
    execution = prepare(setup)
    seen = list(execution.observe())
    return seen, execution.result()


def total_of(result, counter) -> int:
    return sum(window.counters[counter] for window in result.windows)
