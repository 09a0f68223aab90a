"""Every network step of suite full, made short: it runs over loopback, is whole, and has a row people can read."""

import io
import os
import uuid

import pytest
from rich.console import Console

from cvmprobe.analysis import summarize
from cvmprobe.cli.figures import figures_of_summaries
from cvmprobe.cli.tables import tables
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, PeerAddress, Role
from cvmprobe.model.window import Direction, Flag, Instance, Probe
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.execution import Setup
from cvmprobe.probes.responder import Responder
from cvmprobe.suites import load_suite, scaled
from cvmprobe.suites.price import lease_cost

A, B = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
SUITE = scaled(load_suite("full"), 0.01)
STEPS = [step for step in SUITE.steps if step.path is Path.LOOPBACK]
COLUMNS = {
    Probe.TCP_RR: ["rate", "p50", "p90", "p99"],
    Probe.TCP_CRR: ["connections", "p50", "p90", "p99", "connect p50", "first byte p99"],
    Probe.UDP_RR: ["rate", "p50", "p90", "p99", "lost"],
    Probe.TCP_STREAM: ["throughput"],
    Probe.UDP_STREAM: ["throughput", "lost"],
    Probe.LOADED_RR: ["idle p50", "idle p99", "loaded p50", "loaded p99", "p99 ratio", "throughput"],
}


@pytest.fixture
def responder():
    found = Responder("127.0.0.1", 0)
    yield found
    found.close()


def run(responder, step):
    key, name = os.urandom(32), uuid.uuid4()
    cap = lease_cost(step).network_bytes
    responder.admit(name.bytes, key, step.probe, valid_for_ms=60_000, max_bytes=cap)
    target = EndpointTarget(B, Path.LOOPBACK)
    instance = Instance(name.hex, step.probe, A, target, step.direction, 0, step.parameters)
    setup = Setup(
        instance=instance,
        interval_ms=SUITE.interval_ms,
        duration_ms=step.duration_ms,
        max_bytes=cap,
        peer=PeerAddress("127.0.0.1", responder.port),
        key=key,
    )
    execution = prepare(setup)
    for _ in execution.observe():
        pass
    return execution.result()


def printed(windows):
    console = Console(file=io.StringIO(), width=300)
    console.print(tables(figures_of_summaries(summarize(windows)), []))
    return console.file.getvalue()


def test_every_network_probe_is_in_it():
    assert {step.probe for step in STEPS} == set(COLUMNS)
    assert {step.direction for step in STEPS} == {Direction.FORWARD, Direction.REVERSE, Direction.BOTH}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_is_whole_and_readable(responder, step):
    result = run(responder, step)
    assert result.error is None
    assert not any(Flag.CUT in window.flags for window in result.windows)
    shown = printed(result.windows)
    for column in COLUMNS[step.probe]:
        assert column in shown, shown
    row = next(line for line in shown.splitlines() if line.lstrip().startswith("a "))
    numbers = [cell for cell in row.split() if cell[0].isdigit()]
    assert len(numbers) >= min(3, len(COLUMNS[step.probe])), shown
