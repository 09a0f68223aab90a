"""Runs: the responder is armed before the initiator starts, every lease ends, and the end says what is missing."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from cvmprobe.collector.runs import RunProgress
from cvmprobe.collector.schedule import Match, matches, rounds
from cvmprobe.collector.ways import Peer
from cvmprobe.model.assignment import Lease, LeaseReport, LeaseState, Revoke, Side
from cvmprobe.model.endpoint import Endpoint, Path, PeerAddress, Role
from cvmprobe.model.run import Cost, RunState
from cvmprobe.suites import load_suite

A, B = Endpoint("a", Role.POD), Endpoint("b", Role.POD)


class Clock:
    def __init__(self):
        self.ms = 1_000_000

    def __call__(self):
        return self.ms


def peer(endpoint, port=1, host="127.0.0.1"):
    return Peer(endpoint, f"boot-{endpoint.node}", f"start-{endpoint.node}", PeerAddress(host, port))


def progress(clock, *, steps=("rr",), peers=(A, B), width=1, moved=None):
    suite = load_suite("quick")
    suite = replace(suite, steps=tuple(step for step in suite.steps if step.name in steps))
    planned = matches(suite, [peer(endpoint) for endpoint in peers])
    cut = rounds(planned, lambda match: match.occupies, width)
    where = {} if moved is None else moved
    return RunProgress(suite, 1.0, Cost(1, 2, 3), cut, peer_of=where.get, now_ms=clock, unix_ms=lambda: 5)


def answer(lease: Lease, state: LeaseState, **more) -> LeaseReport:
    return LeaseReport(lease.lease_id, lease.side, state, **more)


def only(commands, kind=Lease):
    (command,) = commands
    assert isinstance(command.message, kind)
    return command.endpoint, command.message


def play(run, commands):
    """Answer every command as two healthy agents would, until nothing more is asked."""
    seq = 0
    pending = list(commands)
    while pending:
        command = pending.pop(0)
        if isinstance(command.message, Revoke):
            continue
        lease = command.message
        if lease.side is Side.RESPONDER:
            pending += run.report(command.endpoint, answer(lease, LeaseState.ARMED))
            continue
        seq += 1
        pending += run.report(command.endpoint, answer(lease, LeaseState.RUNNING))
        pending += run.report(
            command.endpoint, answer(lease, LeaseState.DONE, last_seq=seq, totals={"transactions": seq})
        )
        pending += run.stored(command.endpoint, f"start-{command.endpoint.node}", seq)


def test_the_initiator_starts_only_after_the_responder_is_armed():
    run = progress(Clock())
    responder, lease = only(run.start())
    assert lease.side is Side.RESPONDER
    assert lease.peer is None
    initiator, started = only(run.report(responder, answer(lease, LeaseState.ARMED)))
    assert initiator == lease.source != responder
    assert started.side is Side.INITIATOR
    assert started.peer == PeerAddress("127.0.0.1", 1)
    assert (started.lease_id, started.key) == (lease.lease_id, lease.key)
    assert len(lease.key) == 32
    assert lease.valid_for_ms > started.valid_for_ms > started.duration_ms
    assert run.report(responder, answer(lease, LeaseState.ARMED)) == []


def test_a_whole_run_is_done_when_all_its_windows_are_stored():
    run = progress(Clock(), steps=("rr", "stream", "randread", "randwrite"))
    play(run, run.start())
    assert run.run.state is RunState.DONE
    assert run.run.leases_total == run.run.leases_ended == len(run.run.leases) == 8
    assert run.run.ended_unix_ms == 5
    assert len({record.lease_id for record in run.run.leases}) == 8
    assert [record.totals["transactions"] for record in run.run.leases] == list(range(1, 9))


def test_a_lease_is_done_only_once_its_last_batch_is_stored():
    run = progress(Clock(), steps=("randread",), peers=(A,))
    _, lease = only(run.start())
    assert lease.peer is None
    assert run.report(A, answer(lease, LeaseState.DONE, last_seq=7)) == []
    assert run.stored(A, f"start-{A.node}", 6) == []
    assert run.stored(B, f"start-{B.node}", 9) == []
    assert run.run.state is RunState.RUNNING
    assert run.stored(A, "an earlier start", 7) == []
    assert run.run.state is RunState.RUNNING
    run.stored(A, f"start-{A.node}", 7)
    assert run.run.state is RunState.DONE


def test_windows_stored_before_the_report_count_too():
    run = progress(Clock(), steps=("randread",), peers=(A,))
    _, lease = only(run.start())
    run.stored(A, f"start-{A.node}", 7)
    run.report(A, answer(lease, LeaseState.DONE, last_seq=7))
    assert run.run.state is RunState.DONE


def test_the_responder_is_released_when_the_initiator_is_done():
    run = progress(Clock())
    responder, lease = only(run.start())
    initiator, started = only(run.report(responder, answer(lease, LeaseState.ARMED)))
    run.report(initiator, answer(started, LeaseState.DONE, last_seq=1))
    released, following = run.stored(initiator, f"start-{initiator.node}", 1)
    assert released.endpoint == responder
    assert released.message == Revoke(lease.lease_id, "measured")
    assert isinstance(following.message, Lease)


def test_an_end_that_comes_back_is_given_its_lease_once_more_until_it_has_reported_its_end():
    run = progress(Clock())
    responder, lease = only(run.start())
    run.absent(responder)
    assert only(run.present(responder, f"start-{responder.node}")) == (responder, lease)
    initiator, started = only(run.report(responder, answer(lease, LeaseState.ARMED)))
    assert run.present(responder, f"start-{responder.node}") == []
    for _ in range(2):
        assert only(run.present(initiator, f"start-{initiator.node}")) == (initiator, started)
        run.report(initiator, answer(started, LeaseState.RUNNING))
    run.report(initiator, answer(started, LeaseState.DONE, last_seq=1))
    assert run.present(initiator, f"start-{initiator.node}") == []


def test_a_lease_of_an_endpoint_with_itself_is_granted_and_repeated_like_any_other():
    step = replace(load_suite("quick").steps[0], path=Path.LOOPBACK)
    alone = peer(A, host="10.0.0.1")
    (match,) = matches(replace(load_suite("quick"), steps=(step,)), [alone])
    run = RunProgress(
        load_suite("quick"), 1.0, Cost(1, 2, 3), [[match]], peer_of=lambda _: None, now_ms=Clock(), unix_ms=lambda: 5
    )
    first, lease = only(run.start())
    assert (first, lease.side) == (A, Side.RESPONDER)
    second, started = only(run.report(A, answer(lease, LeaseState.ARMED)))
    assert (second, started.side, started.peer) == (A, Side.INITIATOR, PeerAddress("127.0.0.1", 1))
    assert only(run.present(A, "start-a")) == (A, started)
    run.report(A, answer(started, LeaseState.DONE, last_seq=1))
    assert [type(command.message) for command in run.stored(A, "start-a", 1)] == [Revoke]
    assert run.run.state is RunState.DONE


@pytest.mark.parametrize("side", [Side.RESPONDER, Side.INITIATOR])
def test_a_failure_on_either_end_stops_the_other_and_makes_the_run_partial(side):
    run = progress(Clock())
    responder, lease = only(run.start())
    initiator, started = only(run.report(responder, answer(lease, LeaseState.ARMED)))
    failing, held = (responder, lease) if side is Side.RESPONDER else (initiator, started)
    other = initiator if side is Side.RESPONDER else responder
    revoked, *following = run.report(failing, answer(held, LeaseState.FAILED, detail="no route"))
    assert (revoked.endpoint, type(revoked.message)) == (other, Revoke)
    play(run, following)
    assert run.run.state is RunState.PARTIAL
    assert "1 of 2 leases failed" in run.run.detail
    assert f"{failing}: no route" in run.run.detail


@pytest.mark.parametrize(
    ("reports", "wait_ms", "complaint"),
    [
        ((), 10_000, "b/pod did not report armed within 10 s"),
        ((LeaseState.ARMED,), 30_000, "a/pod did not report its end within 30 s"),
        ((LeaseState.ARMED, LeaseState.DONE), 10_000, "did not reach the store within 10 s"),
    ],
)
def test_each_deadline_binds_and_says_what_was_late(reports, wait_ms, complaint):
    clock = Clock()
    run = progress(clock)
    responder, lease = only(run.start())
    if reports:
        initiator, started = only(run.report(responder, answer(lease, reports[0])))
    if len(reports) > 1:
        run.report(initiator, answer(started, reports[1], last_seq=1))
    clock.ms += wait_ms - 1
    assert run.tick() == []
    clock.ms += 1
    commands = run.tick()
    assert {command.endpoint for command in commands if isinstance(command.message, Revoke)} <= {A, B}
    assert run.run.leases[0].state == "failed"
    assert complaint in run.run.leases[0].detail


def test_an_agent_that_stays_away_fails_its_leases_and_one_that_returns_does_not():
    clock = Clock()
    run = progress(clock)
    responder, lease = only(run.start())
    initiator, started = only(run.report(responder, answer(lease, LeaseState.ARMED)))
    run.absent(responder)
    clock.ms += 9_999
    assert run.tick() == []
    assert run.present(responder, f"start-{responder.node}") == []
    clock.ms += 1
    assert run.tick() == []
    run.absent(initiator)
    clock.ms += 10_000
    run.tick()
    assert run.run.leases[0].detail == f"{initiator} is not attached"
    clock.ms += 10_000
    run.tick()
    assert run.run.state is RunState.FAILED
    assert started.lease_id == run.run.leases[0].lease_id


def test_a_restarted_agent_has_forgotten_its_lease():
    run = progress(Clock())
    responder, _ = only(run.start())
    commands = run.present(responder, "another")
    assert run.run.leases[0].detail == f"{responder} has restarted"
    assert any(isinstance(command.message, Lease) for command in commands)


def test_after_a_restart_the_leases_to_come_go_where_the_agent_is_now():
    moved = {}
    run = progress(Clock(), steps=("rr", "randread"), moved=moved)
    responder, _ = only(run.start())
    moved[responder] = Peer(responder, "boot-new", "second", PeerAddress("10.0.0.9", 9))
    run.absent(responder)
    commands = run.present(responder, "second")
    ports = []
    for command in commands:  # what healthy agents do: no lease to come knows of the start before
        if isinstance(command.message, Lease) and command.message.side is Side.RESPONDER:
            assert command.endpoint != responder
            (started,) = run.report(command.endpoint, answer(command.message, LeaseState.ARMED))
            ports.append(started.message.peer.port)
            run.report(responder, answer(started.message, LeaseState.DONE, last_seq=1))
            assert run.stored(responder, f"start-{responder.node}", 1) == []
            commands += run.stored(responder, "second", 1)
    assert ports == [1]
    assert [record.state for record in run.run.leases[:2]] == ["failed", "done"]


def test_a_round_waits_for_an_agent_that_may_return_and_fails_without_one_that_does_not():
    clock = Clock()
    run = progress(clock)
    responder, lease = only(run.start())
    initiator, started = only(run.report(responder, answer(lease, LeaseState.ARMED)))
    run.report(initiator, answer(started, LeaseState.DONE, last_seq=1))
    run.absent(responder)
    (released,) = run.stored(initiator, f"start-{initiator.node}", 1)
    assert isinstance(released.message, Revoke)
    assert run.tick() == []
    assert len(run.run.leases) == 1
    clock.ms += 10_000
    assert run.tick() == []
    assert run.run.state is RunState.PARTIAL
    assert run.run.leases[1].detail == f"{responder} is not attached"


def test_reports_from_the_wrong_end_or_of_unknown_leases_change_nothing():
    run = progress(Clock())
    responder, lease = only(run.start())
    before = run.run
    assert run.report(lease.source, answer(lease, LeaseState.ARMED)) == []
    assert run.report(lease.source, LeaseReport(lease.lease_id, Side.INITIATOR, LeaseState.DONE)) == []
    assert run.report(responder, LeaseReport("unknown", Side.RESPONDER, LeaseState.FAILED)) == []
    assert run.run == before
    assert run.holds(lease.lease_id)
    assert not run.holds("unknown")


def test_a_cancelled_run_revokes_what_it_granted_and_stays_cancelled():
    run = progress(Clock())
    responder, lease = only(run.start())
    initiator, _ = only(run.report(responder, answer(lease, LeaseState.ARMED)))
    commands = run.stop(RunState.CANCELLED, "cancelled by somebody")
    assert {(command.endpoint, type(command.message)) for command in commands} == {
        (responder, Revoke),
        (initiator, Revoke),
    }
    assert run.run.state is RunState.CANCELLED
    assert run.run.leases[0].state == "revoked"
    assert run.stop(RunState.INTERRUPTED, "later") == []
    assert run.report(responder, answer(lease, LeaseState.REVOKED)) == []
    assert run.run.state is RunState.CANCELLED


class AnyOrder(RuleBasedStateMachine):
    """Whatever order agents answer, vanish and return in: one lease per machine, and every run ends."""

    granted = Bundle("granted")

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.peers = [Endpoint(name, Role.POD) for name in "abcd"]
        self.run = progress(self.clock, steps=("rr", "randread"), peers=self.peers, width=2)
        self.queue = list(self.run.start())
        self.busy = {}

    def take(self, commands):
        self.queue += commands

    @rule(target=granted)
    def deliver(self):
        if not self.queue:
            return None
        return self.queue.pop(0)

    @rule(command=consumes(granted), state=st.sampled_from(LeaseState), seq=st.integers(0, 3))
    def reply(self, command, state, seq):
        if command is not None and isinstance(command.message, Lease):
            self.take(self.run.report(command.endpoint, answer(command.message, state, last_seq=seq)))

    @rule(who=st.integers(0, 3), seq=st.integers(0, 3))
    def stored(self, who, seq):
        self.take(self.run.stored(self.peers[who], f"start-{self.peers[who].node}", seq))

    @rule(who=st.integers(0, 3), same=st.booleans())
    def comes_back(self, who, same):
        start = f"start-{self.peers[who].node}" if same else "other"
        self.take(self.run.present(self.peers[who], start))

    @rule(who=st.integers(0, 3))
    def goes(self, who):
        self.take(self.run.absent(self.peers[who]))

    @rule(ms=st.integers(0, 20_000))
    def time_passes(self, ms):
        self.clock.ms += ms
        self.take(self.run.tick())

    @invariant()
    def no_machine_is_in_two_leases(self):
        active = [record for record in self.run.run.leases if record.state not in ("done", "failed", "revoked")]
        machines = [
            endpoint
            for record in active
            for endpoint in {
                record.instance.source,
                getattr(record.instance.target, "endpoint", record.instance.source),
            }
        ]
        assert len(machines) == len(set(machines))
        assert len(active) <= 2

    @invariant()
    def the_end_is_told_as_it_is(self):
        states = {record.state for record in self.run.run.leases}
        ended = self.run.run
        assert (ended.ended_unix_ms is not None) == ended.state.ended
        if ended.state is RunState.DONE:
            assert states == {"done"}
            assert len(ended.leases) == ended.leases_total
        if ended.state is RunState.PARTIAL:
            assert {"done", "failed"} <= states

    def teardown(self):
        for _ in range(self.run.run.leases_total + 1):
            self.clock.ms += 200_000
            self.run.tick()
        assert self.run.ended
        assert self.run.run.leases_ended == self.run.run.leases_total


AnyOrder.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
test_any_order = AnyOrder.TestCase


def test_a_match_occupies_the_nodes_and_the_machines_of_both_ends():
    step = load_suite("quick").steps[0]
    one = Match(step, 1, peer(A), None, peer(B))
    assert one.occupies == {("node", "a"), ("node", "b"), ("machine", "boot-a"), ("machine", "boot-b")}
