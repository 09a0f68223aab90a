"""Light probes follow the plan, make way for a lease, and go on where they were."""

import pytest
from tests.unit.supervised_node import Node, lease, light, make_node, plan

from cvmprobe.errors import EngineError
from cvmprobe.model.assignment import Admission
from cvmprobe.model.window import Probe

__all__ = ["make_node"]


def test_the_plan_runs_and_its_windows_are_numbered(node: Node):
    node.receive(plan(light()))
    execution = node.started(1)
    assert execution.setup.duration_ms is None
    assert execution.setup.instance.assignment_id == "a" * 32
    execution.step(1)
    node.until(lambda: execution.windows and node.calls.empty())
    node.pass_time(1)
    assert node.stored() == execution.windows


def test_a_new_plan_keeps_what_it_repeats_and_ends_the_rest(node: Node):
    node.receive(plan(light("a" * 32), light("b" * 32)))
    node.started(2)
    keeping, leaving = sorted(node.executions, key=lambda execution: execution.setup.instance.assignment_id)
    node.receive(plan(light("a" * 32), light("c" * 32)))
    node.until(lambda: len(node.executions) == 3 and leaving.stops == 1)
    assert keeping.stops == 0
    node.until(node.calls.empty)
    node.pass_time(1)
    assert len(node.executions) == 3


def test_light_probes_pause_for_a_lease_and_it_waits_for_them(node: Node):
    node.receive(plan(light()))
    probe = node.started(1)
    probe.deaf = True
    node.receive(lease())
    node.until(lambda: probe.stops == 1)
    assert len(node.executions) == 1
    probe.end()
    heavy = node.started(2)
    assert heavy.setup.instance.probe is Probe.TCP_STREAM
    node.pass_time(2)
    assert len(node.executions) == 2
    heavy.end()
    resumed = node.started(3)
    assert resumed.setup.instance.assignment_id == "a" * 32


def test_a_light_probe_that_resumes_goes_on_after_its_last_window(node: Node):
    node.receive(plan(light()))
    first = node.started(1)
    first.step(5_000)
    node.until(lambda: node.pass_time(1) or node.stored())
    node.receive(lease())
    node.started(2).end()
    resumed = node.started(3)
    assert (first.setup.after_unix_ms, resumed.setup.after_unix_ms) == (0, 5_000)


def test_a_light_probe_that_changed_starts_when_the_one_before_it_has_ended(node: Node):
    node.receive(plan(light()))
    first = node.started(1)
    first.deaf = True
    first.step(5_000)
    node.until(lambda: node.pass_time(1) or node.stored())
    node.receive(plan(light(rate="20")))
    node.until(lambda: first.stops == 1)
    node.pass_time(1)
    assert len(node.executions) == 1
    first.step(6_000)
    first.end()
    assert node.started(2).setup.after_unix_ms == 6_000


def test_a_lease_does_not_wait_long_for_a_light_probe(node: Node):
    node.receive(plan(light()))
    node.started(1).deaf = True
    node.receive(lease())
    node.pass_time(1.25)
    assert node.started(2).setup.instance.probe is Probe.TCP_STREAM


def test_the_plan_ends_with_its_keys(node: Node):
    node.receive(plan(light(), valid_for_ms=5_000))
    execution = node.started(1)
    node.pass_time(4.5)
    assert execution.stops == 0
    node.pass_time(0.75)
    node.until(lambda: node.supervisor.idle)
    node.pass_time(120)
    assert len(node.executions) == 1


def test_a_light_probe_that_fails_is_tried_again_later_and_later(node: Node):
    node.receive(plan(light()))
    pauses = []
    for attempt in range(1, 9):
        execution = node.started(attempt)
        execution.error = EngineError("connect", 111, "tcp_rr")
        execution.end()
        node.until(lambda: node.supervisor.idle)
        began = node.now
        while len(node.executions) == attempt and node.now < began + 120:
            node.pass_time(0.25)
            node.until(lambda attempt=attempt: node.supervisor.idle or len(node.executions) > attempt)
        pauses.append(node.now - began)
    assert 1 <= pauses[0] <= 2.25
    assert 30 <= pauses[-1] <= 60.25
    assert max(pauses) <= 60.25


def test_light_probes_beyond_the_budget_do_not_run(node: Node, caplog: pytest.LogCaptureFixture):
    node.receive(plan(light("a" * 32, "60"), light("b" * 32, "60"), light("c" * 32, "40"), light("d" * 32, "0")))
    node.started(2)
    node.pass_time(1)
    ran = {execution.setup.instance.assignment_id for execution in node.executions}
    assert ran == {"a" * 32, "c" * 32}
    assert "60 operations/s are asked for, 40 of 100 are left" in caplog.text
    assert "must state its rate_per_s" in caplog.text


def test_admissions_follow_the_plan(node: Node):
    first, second = Admission("1" * 32, Probe.TCP_RR, b"k"), Admission("2" * 32, Probe.TCP_RR, b"k")
    node.receive(plan(admissions=(first, second), valid_for_ms=8_000))
    assert node.responder.admitted[bytes.fromhex("1" * 32)] == (b"k", Probe.TCP_RR, 8_000, 1_000_000)
    node.receive(plan(admissions=(second, Admission("not hex", Probe.TCP_RR, b"k"))))
    assert set(node.responder.admitted) == {bytes.fromhex("2" * 32)}
