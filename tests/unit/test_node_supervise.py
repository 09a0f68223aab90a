"""Leases and light probes do what they were allowed, one quiet phase at a time, and end when they must."""

import asyncio
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cvmprobe.config.agent import AgentBudgets, AgentSettings
from cvmprobe.errors import EngineError, ProbeError, UsageError
from cvmprobe.model.assignment import (
    Admission,
    Lease,
    LeaseReport,
    LeaseState,
    LightProbe,
    Plan,
    Revoke,
    Side,
)
from cvmprobe.model.delivery import Batch, Heartbeat, Hello, Preview
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, PeerAddress, Role, VolumeTarget
from cvmprobe.model.endpoint import Path as NetPath
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.model.query import Attachment, NodeStatus, Selection
from cvmprobe.model.window import ClockPair, Direction, Flag, Phase, Probe, SampleBlock, Window
from cvmprobe.node.live import Live
from cvmprobe.node.outbox import Outbox
from cvmprobe.node.supervise import Supervisor
from cvmprobe.probes.execution import Result, Setup

OWN, PEER = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
ENVIRONMENT = Environment((), TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ()))
HELLO = Hello("1", OWN, "boot", "start", 0, 0, ENVIRONMENT)
TO_PEER = EndpointTarget(PEER, NetPath.INTER_NODE)
ID = "0123456789abcdef" * 2
OTHER_ID = "f" * 32


class FakeExecution:
    """Yields windows as the test hands them in, and ends when told."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.windows: list[Window] = []
        self.error: ProbeError | None = None
        self.totals: Mapping[str, int] = {"sent_bytes": 10}
        self.samples: tuple[SampleBlock, ...] = ()
        self.stops = 0
        self.deaf = False
        self._orders: queue.Queue[int | Exception | None] = queue.Queue()

    def step(self, number: int) -> None:
        self._orders.put(number)

    def end(self) -> None:
        self._orders.put(None)

    def crash(self, error: Exception) -> None:
        self._orders.put(error)

    def stop(self) -> None:
        self.stops += 1
        if not self.deaf:
            self._orders.put(None)

    def observe(self) -> Iterator[Window]:
        while (order := self._orders.get(timeout=10)) is not None:
            if isinstance(order, Exception):
                raise order
            window = Window(self.setup.instance, order, 1, Phase.STEADY, {"n": order})
            self.windows.append(window)
            yield window

    def result(self) -> Result:
        return Result(tuple(self.windows), self.totals, self.samples, self.error)


class FakeResponder:
    def __init__(self) -> None:
        self.admitted: dict[bytes, tuple[bytes, Probe, int, int]] = {}
        self.moved: int | None = None
        self.error: ProbeError | None = None

    def admit(self, session_id: bytes, key: bytes, probe: Probe, *, valid_for_ms: int, max_bytes: int) -> None:
        if self.error is not None:
            raise self.error
        self.admitted[session_id] = (key, probe, valid_for_ms, max_bytes)

    def spent(self, session_id: bytes) -> int | None:
        return self.moved if session_id in self.admitted else None

    def revoke(self, session_id: bytes) -> None:
        self.admitted.pop(session_id, None)


class Node:
    """A supervisor on a clock and an event loop that the test turns by hand."""

    def __init__(self, path: Path, budgets: AgentBudgets | None = None) -> None:
        self.now = 100.0
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self.executions: list[FakeExecution] = []
        self.refusal: ProbeError | None = None
        self.responder = FakeResponder()
        packed: list[Batch] = []

        def pack(batch: Batch) -> bytes:
            packed.append(batch)
            return b"%d" % (len(packed) - 1)

        self.outbox = Outbox(
            path / "spool" / "start.sqlite",
            HELLO,
            pack=pack,
            unpack=lambda body: packed[int(body)],
            spool_bytes=1 << 20,
            memory_bytes=1 << 20,
            sample_bytes=1 << 20,
            clock=self.clock,
        )
        self.live = Live(
            lambda: NodeStatus(OWN, Attachment.ATTACHED, "1", "start", 0, 0, 0, 0, 0, ENVIRONMENT),
        )
        settings = AgentSettings(
            collector="c:1",
            ca_file=path,
            token_file=path,
            node="a",
            state_dir=path,
            volumes={"scratch": path},
            budgets=budgets
            or AgentBudgets(light_operations_per_s=100, heavy_bytes_per_day=1_000, disk_write_bytes_per_day=1_000),
        )
        self.supervisor = Supervisor(
            settings,
            outbox=self.outbox,
            live=self.live,
            responder=self.responder,
            prepare=self.prepare,
            post=self.calls.put,
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.now

    def prepare(self, setup: Setup) -> FakeExecution:
        if self.refusal is not None:
            raise self.refusal
        execution = FakeExecution(setup)
        self.executions.append(execution)
        return execution

    def receive(self, message) -> None:
        self.supervisor.receive(message)

    def until(self, condition: Callable[[], object]) -> None:
        """Run what the threads posted until ``condition`` holds."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not come to pass"
            try:
                self.calls.get(timeout=0.02)()
            except queue.Empty:
                continue

    def pass_time(self, seconds: float, heartbeat: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            if heartbeat:
                self.receive(Heartbeat())
            self.supervisor.tick()

    def reports(self) -> list[LeaseReport]:
        return [item for item in self.unnumbered() if isinstance(item, LeaseReport)]

    def unnumbered(self) -> list[object]:
        taken: list[object] = []
        while (item := self.outbox.next_unnumbered()) is not None:
            taken.append(item)
        return taken

    def started(self, count: int) -> FakeExecution:
        self.until(lambda: len(self.executions) == count)
        return self.executions[-1]

    def stored(self) -> list[Window]:
        windows: list[Window] = []
        seq = 0
        while isinstance(batch := self.outbox.after(seq), Batch):
            windows += batch.windows
            seq = batch.seq
        return windows

    def close(self) -> None:
        self.supervisor.close()
        for execution in self.executions:
            execution.end()
        self.until(lambda: self.supervisor.idle)
        self.outbox.close(delivered=False)


@pytest.fixture(name="node")
def make_node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def lease(**changes) -> Lease:
    plain = Lease(
        lease_id=ID,
        run_id="r",
        side=Side.INITIATOR,
        probe=Probe.TCP_STREAM,
        source=OWN,
        target=TO_PEER,
        direction=Direction.FORWARD,
        repeat=0,
        parameters={},
        interval_ms=200,
        duration_ms=3_000,
        valid_for_ms=13_000,
        max_bytes=100,
        peer=PeerAddress("h", 1),
        key=b"k" * 32,
    )
    return replace(plain, **changes)


def light(probe_id: str = "a" * 32, rate: str = "10") -> LightProbe:
    return LightProbe(probe_id, Probe.TCP_RR, TO_PEER, {"rate_per_s": rate}, 10_000, PeerAddress("h", 1), b"k" * 32)


def plan(*probes: LightProbe, valid_for_ms: int = 3_600_000, admissions: tuple[Admission, ...] = ()) -> Plan:
    return Plan("p", valid_for_ms, probes, admissions)


# Leases, initiator


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
        node.until(lambda: len(execution.windows) == number and node.calls.empty())  # noqa: B023 - used at once
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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_bytes": 1_001}, "budget heavy_bytes_per_day of this node is 1000 bytes, of which 1000 are left today"),
        ({"source": PEER}, "the initiator of this lease is b/pod, but this is a/pod"),
        ({"side": Side.RESPONDER}, "the responder of this lease is b/pod, but this is a/pod"),
        ({"side": Side.RESPONDER, "target": VolumeTarget("scratch")}, "the responder of this lease is None"),
        ({"target": VolumeTarget("attic"), "probe": Probe.DISK}, "a/pod has no volume 'attic'; it has scratch"),
        ({"interval_ms": 0}, "cannot measure"),
        ({"duration_ms": 14_000}, "cannot measure 14000 ms"),
        ({"interval_ms": 1, "duration_ms": 11_000}, "more than 10000 windows"),
        ({"lease_id": "../../etc"}, "is not 32 hexadecimal digits"),
    ],
)
def test_what_stands_against_a_lease_is_its_reason(node: Node, changes: dict[str, object], reason: str):
    node.receive(lease(**changes))
    (report,) = node.reports()
    assert report.state is LeaseState.FAILED
    assert reason in report.detail
    assert node.supervisor.idle
    assert not node.outbox.quiet


def test_one_lease_at_a_time(node: Node):
    node.receive(lease())
    node.started(1)
    node.receive(lease(lease_id=OTHER_ID))
    assert node.reports()[-1].detail == f"a/pod already holds lease {ID}; one at a time"


def test_a_disk_lease_gets_its_volume(node: Node, tmp_path: Path):
    node.receive(lease(probe=Probe.DISK, target=VolumeTarget("scratch"), peer=None, direction=Direction.NONE))
    assert node.started(1).setup.volume == tmp_path


def test_absent_budgets_refuse_everything(tmp_path: Path):
    node = Node(tmp_path, AgentBudgets())
    node.receive(lease(max_bytes=1))
    node.receive(lease(lease_id=OTHER_ID, probe=Probe.DISK, target=VolumeTarget("scratch"), max_bytes=1))
    node.receive(plan(light(rate="0.1")))
    assert [report.state for report in node.reports()] == [LeaseState.FAILED, LeaseState.FAILED]
    assert node.executions == []
    node.close()


def test_what_a_lease_did_not_use_is_given_back_and_the_rest_outlives_a_restart(tmp_path: Path):
    node = Node(tmp_path)
    node.receive(lease(max_bytes=900))
    node.started(1).end()
    node.until(lambda: node.supervisor.free)
    assert json.loads((tmp_path / "spent.json").read_bytes())["spent"] == {"heavy_bytes_per_day": 10}
    node.close()
    again = Node(tmp_path)
    again.receive(lease(max_bytes=991))
    assert "of which 990 are left today" in again.reports()[-1].detail
    again.close()


@pytest.mark.parametrize(
    ("totals", "left"),
    [
        ({"fill_bytes": 40, "write_bytes": 60}, 900),
        ({"fill_bytes": 40, "read_bytes": 9_000}, 960),
        ({"write_bytes": 60}, 100),
        ({}, 100),
    ],
)
def test_a_disk_lease_is_charged_what_it_wrote_or_all_of_it(node: Node, totals: dict[str, int], left: int):
    disk = lease(probe=Probe.DISK, target=VolumeTarget("scratch"), peer=None, max_bytes=900)
    node.receive(disk)
    execution = node.started(1)
    execution.totals = totals
    execution.end()
    node.until(lambda: node.supervisor.free)
    node.reports()
    node.receive(replace(disk, lease_id=OTHER_ID, max_bytes=1_001))
    assert f"of which {left} are left today" in node.reports()[-1].detail


# Leases, responder and loopback


def test_a_responder_admits_reports_armed_and_lets_go_when_revoked(node: Node):
    node.receive(lease(side=Side.RESPONDER, source=PEER, target=EndpointTarget(OWN, NetPath.INTER_NODE)))
    assert node.responder.admitted == {bytes.fromhex(ID): (b"k" * 32, Probe.TCP_STREAM, 13_000, 100)}
    assert [report.state for report in node.reports()] == [LeaseState.ARMED]
    assert node.outbox.quiet
    node.receive(Revoke(ID, "measured"))
    assert node.responder.admitted == {}
    assert [report.state for report in node.reports()] == [LeaseState.REVOKED]
    assert not node.outbox.quiet


@pytest.mark.parametrize(("moved", "left"), [(30, 970), (0, 1_000), (None, 100)])
def test_a_responder_is_charged_what_it_moved_or_all_of_it(node: Node, moved: int | None, left: int):
    responding = lease(side=Side.RESPONDER, source=PEER, target=EndpointTarget(OWN, NetPath.INTER_NODE), max_bytes=900)
    node.responder.moved = moved
    node.receive(responding)
    node.receive(Revoke(ID, "measured"))
    node.reports()
    node.receive(replace(responding, lease_id=OTHER_ID, max_bytes=1_001))
    assert f"of which {left} are left today" in node.reports()[-1].detail


def test_a_responder_that_cannot_admit_says_why(node: Node):
    node.responder.error = UsageError("no responder serves 'api'")
    node.receive(lease(side=Side.RESPONDER, source=PEER, target=EndpointTarget(OWN, NetPath.INTER_NODE)))
    (report,) = node.reports()
    assert (report.state, report.detail) == (LeaseState.FAILED, "no responder serves 'api'")


@pytest.mark.parametrize("heartbeat", [True, False])
def test_a_responder_lets_go_at_the_deadline_and_in_silence(node: Node, heartbeat: bool):
    node.receive(lease(side=Side.RESPONDER, source=PEER, target=EndpointTarget(OWN, NetPath.INTER_NODE)))
    node.pass_time(14, heartbeat=heartbeat)
    assert node.responder.admitted == {}
    assert node.reports()[-1].state is LeaseState.FAILED


def test_both_sides_of_a_loopback_lease_end_together_and_count_once(node: Node):
    loopback = lease(target=EndpointTarget(OWN, NetPath.LOOPBACK), max_bytes=600)
    node.receive(replace(loopback, side=Side.RESPONDER))
    node.receive(loopback)
    execution = node.started(1)
    execution.step(1)
    execution.end()
    node.until(lambda: node.supervisor.free)
    assert [(report.side, report.state) for report in node.reports()] == [
        (Side.RESPONDER, LeaseState.ARMED),
        (Side.INITIATOR, LeaseState.RUNNING),
        (Side.RESPONDER, LeaseState.DONE),
        (Side.INITIATOR, LeaseState.DONE),
    ]
    assert node.responder.admitted == {}
    assert len(node.stored()) == 1


# Light probes


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
    node.until(lambda: threading.active_count() and node.calls.empty())
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
            node.until(lambda: node.supervisor.idle or len(node.executions) > attempt)  # noqa: B023 - used at once
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


# Ending and looking


def test_close_ends_everything_and_reports_it(node: Node):
    node.receive(plan(light()))
    node.started(1)
    node.receive(lease())
    node.started(2).step(1)
    node.until(lambda: node.executions[1].windows)
    node.supervisor.close()
    node.until(lambda: node.supervisor.idle)
    report = node.reports()[-1]
    assert (report.state, report.detail) == (LeaseState.FAILED, "the agent is ending")
    assert node.stored()[-1].flags == {Flag.CUT}
    node.receive(plan(light("c" * 32)))
    node.receive(lease(lease_id=OTHER_ID))
    assert node.reports()[-1].detail == "the agent is ending"
    node.pass_time(70)
    assert len(node.executions) == 2


def test_abandon_reports_what_close_could_not_end(node: Node):
    node.receive(lease())
    execution = node.started(1)
    execution.deaf = True
    execution.step(1)
    node.until(lambda: execution.windows)
    node.supervisor.close()
    node.supervisor.abandon()
    assert node.supervisor.free
    report = node.reports()[-1]
    assert (report.state, report.last_seq) == (LeaseState.FAILED, 1)


async def test_watchers_see_light_and_heavy_windows_once(node: Node):
    watch = node.live.watch_windows(Selection(probes=(Probe.TCP_STREAM,)))
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)  # it watches from here on
    node.receive(lease())
    execution = node.started(1)
    execution.step(1)
    node.until(lambda: execution.windows and node.calls.empty())
    node.pass_time(1)
    execution.step(2)
    execution.end()
    node.until(lambda: node.supervisor.free)
    assert [await first, await anext(watch)] == execution.windows
    await watch.aclose()
    (probe,) = await node.live.list_probes(Selection())
    assert (probe.windows, probe.last_end_unix_ms) == (2, 2)
    assert (await node.live.list_nodes())[0].endpoint == OWN
