"""A lease at its initiator: one quiet phase, what was measured stored before the report, and an end in any case."""

import threading

import pytest
from tests.unit.supervised_node import ID, Node, lease, light, make_node, plan

from cvmprobe.errors import EngineError, UsageError
from cvmprobe.model.assignment import LeaseReport, LeaseState, Revoke, Side
from cvmprobe.model.delivery import Heartbeat, Preview
from cvmprobe.model.window import ClockPair, Flag, Probe, SampleBlock

__all__ = ["make_node"]


def test_a_lease_runs_quietly_and_ends_with_its_windows_stored_before_the_report(node: Node):
    node.receive(lease(raw_samples=True))
    execution = node.started(1)
    assert execution.setup.duration_ms == 3_000
    assert execution.setup.max_bytes == 100
    execution.samples = (SampleBlock(execution.setup.instance, ClockPair(0, 0), bytes(16), 0),)
    execution.step(1)
    execution.step(2)
    node.until(lambda: len(execution.windows) == 2 and node.calls.empty())
    assert [report.state for report in node.reports()] == [LeaseState.RUNNING]
    node.pass_time(1)
    assert node.unnumbered() == [Preview(tuple(execution.windows))]
    assert (node.outbox.quiet, node.outbox.last_seq) == (True, 0)
    execution.end()
    node.until(lambda: node.supervisor.free)
    assert not node.outbox.quiet
    block, report = node.unnumbered()
    assert block == execution.samples[0]
    assert report == LeaseReport(ID, Side.INITIATOR, LeaseState.DONE, "", 1, {"sent_bytes": 10})
    assert node.stored() == execution.windows


def test_at_most_one_preview_a_second(node: Node):
    node.receive(lease())
    execution = node.started(1)
    shown = []
    for number in range(1, 21):
        execution.step(number)
        node.until(lambda number=number: len(execution.windows) == number and node.calls.empty())
        node.pass_time(0.25)
        shown += [item for item in node.unnumbered() if isinstance(item, Preview)]
    assert len(shown) == 5
    assert [window.end_unix_ms for preview in shown for window in preview.windows] == list(range(1, 21))


def test_a_preview_is_small_however_short_the_interval(node: Node):
    node.receive(lease(interval_ms=1))
    execution = node.started(1)
    for number in range(1, 501):
        execution.step(number)
    node.until(lambda: len(execution.windows) == 500 and node.calls.empty())
    node.pass_time(1)
    (preview,) = [item for item in node.unnumbered() if isinstance(item, Preview)]
    assert [window.end_unix_ms for window in preview.windows] == list(range(491, 501))


def test_a_probe_that_fails_leaves_its_windows_flagged_and_a_reason(node: Node):
    node.receive(lease())
    execution = node.started(1)
    execution.step(1)
    execution.error = EngineError("connect", 111, "tcp_stream to b/pod")
    execution.end()
    node.until(lambda: node.supervisor.free)
    report = node.reports()[-1]
    assert report.state is LeaseState.FAILED
    assert "Connection refused" in report.detail
    assert report.last_seq == 1
    assert [window.flags for window in node.stored()] == [{Flag.CUT}]


def test_a_probe_that_breaks_in_the_middle_does_not_break_the_agent(node: Node, caplog: pytest.LogCaptureFixture):
    node.receive(lease())
    execution = node.started(1)
    execution.step(1)
    execution.crash(ZeroDivisionError("oops"))
    node.until(lambda: node.supervisor.free)
    report = node.reports()[-1]
    assert (report.state, report.detail) == (LeaseState.FAILED, "tcp_stream: ZeroDivisionError: oops")
    assert [window.flags for window in node.stored()] == [{Flag.CUT}]
    assert "unexpectedly" in caplog.text


def test_a_probe_that_cannot_be_prepared_fails_with_its_reason(node: Node):
    node.refusal = UsageError("tcp_stream has no parameter 'x'")
    node.receive(lease())
    node.until(lambda: node.supervisor.free)
    assert [(report.state, report.last_seq) for report in node.reports()] == [
        (LeaseState.RUNNING, 0),
        (LeaseState.FAILED, 0),
    ]
    assert not node.outbox.quiet


def test_revoke_stops_it_and_cuts_what_it_measured(node: Node):
    node.receive(lease())
    execution = node.started(1)
    execution.step(1)
    node.until(lambda: execution.windows)
    node.receive(Revoke(ID, "cancelled by a person"))
    node.until(lambda: node.supervisor.free)
    report = node.reports()[-1]
    assert (report.state, report.detail) == (LeaseState.REVOKED, "cancelled by a person")
    assert [window.flags for window in node.stored()] == [{Flag.CUT}]


def test_the_deadline_binds(node: Node):
    node.receive(lease(valid_for_ms=4_000))
    node.started(1)
    node.pass_time(3.75)
    assert not node.supervisor.free
    node.pass_time(0.5)
    node.until(lambda: node.supervisor.free)
    report = node.reports()[-1]
    assert (report.state, report.detail) == (LeaseState.FAILED, "not over within 4 s")


def test_silence_ends_a_lease_but_not_the_light_probes(node: Node):
    node.receive(plan(light()))
    node.started(1)
    node.receive(lease(valid_for_ms=600_000))
    node.started(2)
    node.pass_time(9.5, heartbeat=False)
    assert not node.supervisor.free
    node.pass_time(1, heartbeat=False)
    node.until(lambda: node.supervisor.free)
    assert node.reports()[-1].detail == "no word from the collector for 10 s"
    node.started(3)
    assert node.executions[-1].setup.instance.probe is Probe.TCP_RR


def test_one_late_tick_is_no_silence(node: Node):
    node.receive(lease(valid_for_ms=600_000))
    node.started(1)
    node.now += 60  # our own loop was blocked
    node.supervisor.tick()
    node.receive(Heartbeat())
    node.supervisor.tick()
    assert not node.supervisor.free


def test_a_probe_that_does_not_stop_is_given_up(node: Node):
    node.receive(lease())
    execution = node.started(1)
    execution.step(1)
    node.until(lambda: execution.windows)
    execution.deaf = True
    node.receive(Revoke(ID, "enough"))
    node.pass_time(9)
    assert not node.supervisor.free
    node.pass_time(1.5)
    assert node.supervisor.free
    report = node.reports()[-1]
    assert (report.state, report.last_seq) == (LeaseState.REVOKED, 1)
    assert [window.flags for window in node.stored()] == [{Flag.CUT}]
    execution.end()
    node.until(lambda: not any(thread.name.startswith("tcp_stream") for thread in threading.enumerate()))
    node.until(node.calls.empty)
    assert node.reports() == []


def test_a_repeated_grant_repeats_the_report_and_runs_nothing(node: Node):
    node.receive(lease())
    node.started(1)
    node.reports()
    node.receive(lease())
    assert [report.state for report in node.reports()] == [LeaseState.RUNNING]
    node.executions[0].end()
    node.until(lambda: node.supervisor.free)
    last = node.reports()[-1]
    node.receive(lease())
    assert node.reports() == [last]
    assert len(node.executions) == 1
