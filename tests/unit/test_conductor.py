"""The conductor: plans to whom they concern, one run at a time, inside the budgets, told to all who watch."""

import asyncio
import time
from dataclasses import replace

import msgspec
import pytest

from cvmprobe.collector.conductor import Conductor, interrupted
from cvmprobe.collector.plans import Planner
from cvmprobe.collector.roster import Attached, Roster
from cvmprobe.collector.spending import Spent, refuse_beyond, spent
from cvmprobe.collector.ways import Peer
from cvmprobe.config.collector import Budgets, Light
from cvmprobe.errors import RefusedError, UsageError
from cvmprobe.model.assignment import Lease, LeaseReport, LeaseState, Plan, Revoke, Side
from cvmprobe.model.delivery import Heartbeat, StreamKey
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, PeerAddress, Role, VolumeTarget
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import Direction, Instance, Probe

A, B = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
BUDGETS = Budgets(
    light_operations_per_s=100,
    light_bits_per_s=10_000_000,
    network_bytes_per_day=1 << 40,
    disk_write_bytes_per_day=1 << 40,
)


class Agent:
    """Answers what a healthy agent would, when told to."""

    def __init__(self, conductor, roster, endpoint, start="s1"):
        self.conductor = conductor
        self.received = []
        stream = StreamKey("local", endpoint, "boot", start)
        peer = Peer(endpoint, "machine", start, PeerAddress("127.0.0.1", 4000))
        self.attached = Attached(stream, None, lambda: peer, self.received.append, 0)
        roster.add(self.attached)
        conductor.attached(self.attached)

    def got(self, kind):
        return [message for message in self.received if isinstance(message, kind)]

    def report(self, lease, state, **more):
        self.conductor.reported(self.attached.endpoint, LeaseReport(lease.lease_id, lease.side, state, **more))

    def answer(self):
        """Answer the newest lease; returns whether there was one."""
        leases = self.got(Lease)
        self.received[:] = [message for message in self.received if not isinstance(message, Lease)]
        for lease in leases:
            if lease.side is Side.RESPONDER:
                self.report(lease, LeaseState.ARMED)
            else:
                totals = {"transactions": 5, "sent_bytes": 7, "write_bytes": 9}
                self.report(lease, LeaseState.DONE, last_seq=1, totals=totals)
                self.conductor.stored(self.attached.endpoint, "s1", 1)
        return bool(leases)


def conduct(budgets=BUDGETS, past=(), monotonic_s=time.monotonic):
    roster, kept = Roster(monotonic_s), []
    conductor = Conductor(roster, Planner(Light(), budgets, lambda: 0), budgets, past, kept.append)
    return conductor, roster, kept


def with_agents(budgets=BUDGETS):
    conductor, roster, kept = conduct(budgets)
    return conductor, [Agent(conductor, roster, A), Agent(conductor, roster, B)], kept


async def test_agents_get_plans_as_they_come_and_none_twice():
    conductor, roster, _ = conduct()
    a = Agent(conductor, roster, A)
    conductor.tick()
    b = Agent(conductor, roster, B)
    conductor.tick()
    assert [len(plan.probes) for plan in a.got(Plan)] == [0, 1]
    (plan,) = b.got(Plan)
    assert plan.probes[0].target == EndpointTarget(A, Path.LOOPBACK)
    assert a.got(Plan)[-1].admissions[0].key == plan.probes[0].key
    conductor.attached(a.attached)
    conductor.tick()
    assert len(a.got(Plan)) == 2
    assert len(b.got(Plan)) == 1
    again = Agent(conductor, roster, B, start="s2")
    conductor.tick()
    assert len(again.got(Plan)) == 1


async def test_a_connection_that_breaks_for_a_moment_changes_no_plan():
    now = [0.0]
    conductor, roster, _ = conduct(monotonic_s=lambda: now[0])
    a, b = Agent(conductor, roster, A), Agent(conductor, roster, B)
    conductor.tick()
    (held,) = a.got(Plan)
    roster.remove(b.attached, may_return=True)
    conductor.detached(B)
    now[0] = 9.0
    conductor._hand_out_plans()
    assert a.got(Plan) == [held]
    again = Agent(conductor, roster, B)
    conductor.tick()
    assert a.got(Plan) == [held]
    (plan,) = again.got(Plan)
    assert (plan.probes, plan.admissions) == (b.got(Plan)[-1].probes, b.got(Plan)[-1].admissions)
    roster.remove(again.attached, may_return=True)
    now[0] = 20.0
    conductor._hand_out_plans()
    assert [len(plan.probes) for plan in a.got(Plan)] == [1, 0]


async def test_an_agent_that_said_bye_is_in_no_plan():
    conductor, (a, b), _ = with_agents()
    conductor.tick()
    conductor._roster.remove(b.attached, may_return=False)
    conductor._hand_out_plans()
    assert [len(plan.probes) for plan in a.got(Plan)] == [1, 0]


async def test_a_run_goes_from_lease_to_lease_and_is_kept_with_each_lease():
    conductor, agents, kept = with_agents()
    run = conductor.start_run("quick", 0.1)
    assert run.state is RunState.RUNNING
    assert run.leases_total == 4 + 2
    while any(agent.answer() for agent in agents):
        pass
    ended = conductor.get_run(run.run_id)
    assert ended.state is RunState.DONE
    assert ended.scale == 0.1
    assert kept[0].state is RunState.RUNNING
    assert kept[-1] == ended
    outlines = [(len(one.leases), one.leases_ended) for one in kept]
    assert outlines == sorted(set(outlines))
    assert {started for started, _ in outlines} == set(range(1, 7))
    assert conductor.list_runs() == [ended]
    again = conductor.start_run("quick", 0.1)
    assert again.run_id != run.run_id


async def test_one_run_at_a_time():
    conductor, _, _ = with_agents()
    run = conductor.start_run("quick", 1)
    with pytest.raises(RefusedError, match=f"run {run.run_id} of suite quick is alive"):
        conductor.start_run("quick", 1)
    assert conductor.cancel_run(run.run_id).state is RunState.CANCELLED
    assert conductor.start_run("quick", 1).state is RunState.RUNNING


@pytest.mark.parametrize(
    ("budgets", "name"),
    [
        (Budgets(), "network_bytes_per_day"),
        (Budgets(network_bytes_per_day=1 << 40), "disk_write_bytes_per_day = 0.0 GiB"),
    ],
)
async def test_a_run_beyond_a_budget_is_refused_by_name(budgets, name):
    conductor, agents, kept = with_agents(budgets)
    with pytest.raises(RefusedError, match=name):
        conductor.start_run("quick", 1)
    assert not kept
    assert not any(agent.got(Lease) for agent in agents)


async def test_without_agents_there_is_nothing_to_measure():
    conductor, _, _ = conduct()
    with pytest.raises(RefusedError, match="0 agents are attached"):
        conductor.start_run("quick", 1)
    with pytest.raises(UsageError, match="no run 'x'"):
        conductor.get_run("x")


async def test_cancelling_revokes_on_both_ends_and_is_harmless_twice():
    conductor, agents, _ = with_agents()
    run = conductor.start_run("quick", 1)
    for agent in agents:
        for lease in agent.got(Lease):
            agent.report(lease, LeaseState.ARMED)
    first = conductor.cancel_run(run.run_id)
    assert conductor.cancel_run(run.run_id) == first
    assert all(len(agent.got(Revoke)) == 1 for agent in agents)


async def test_a_lease_of_an_earlier_collector_is_revoked():
    conductor, (a, _), _ = with_agents()
    conductor.reported(A, LeaseReport("old", Side.INITIATOR, LeaseState.RUNNING))
    assert a.got(Revoke) == [Revoke("old", "no run that is alive has this lease")]
    conductor.reported(A, LeaseReport("older", Side.INITIATOR, LeaseState.DONE))
    assert len(a.got(Revoke)) == 1


async def test_watchers_see_every_state_of_the_end():
    conductor, agents, _ = with_agents()
    run = conductor.start_run("quick", 0.1)
    seen = []

    async def watch():
        seen.extend([one async for one in conductor.watch_run(run.run_id)])

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    while any(agent.answer() for agent in agents):
        await asyncio.sleep(0)
    await asyncio.wait_for(watching, 10)
    assert seen[0] == run
    assert seen[-1].state is RunState.DONE
    ended = [one.leases_ended for one in seen]
    assert ended == sorted(ended)
    assert [one async for one in conductor.watch_run(run.run_id)] == [seen[-1]]


async def test_heartbeats_go_out_and_a_stop_interrupts():
    conductor, (a, _), kept = with_agents()
    ticking = asyncio.create_task(conductor.run())
    async with asyncio.timeout(10):
        while not a.got(Heartbeat):
            await asyncio.sleep(0)
    ticking.cancel()
    conductor.start_run("quick", 1)
    conductor.stop()
    conductor.stop()
    assert kept[-1].state is RunState.INTERRUPTED


SCRATCH = VolumeTarget("scratch")


def record(probe, totals, target=SCRATCH, state="done", **parameters):
    instance = Instance("x", probe, A, target, Direction.NONE, 1, parameters)
    return LeaseRecord("x", "step", instance, state, "", totals)


def past(*records, started=1_000, state=RunState.DONE):
    return Run("r", "quick", 1, state, started, 2_000, Cost(1, 70, 80), len(records), records)


def test_spent_is_what_the_leases_told_and_the_whole_price_where_one_did_not():
    peer = EndpointTarget(B, Path.LOOPBACK)
    told = past(
        record(Probe.TCP_STREAM, {"sent_bytes": 1_000}, peer),
        record(Probe.TCP_RR, {"transactions": 10}, peer, request_bytes="3"),
        record(Probe.DISK, {"write_bytes": 5, "fill_bytes": 100}),
    )
    silent = past(record(Probe.TCP_STREAM, {}, peer, state="failed"))
    assert spent([told], 0) == Spent(1_000 + 40, 105)
    assert spent([told, silent], 0) == Spent(1_040 + 70, 105 + 80)
    assert spent([told], 1_001) == Spent()
    assert spent([past(record(Probe.DISK, {"read_bytes": 9, "fill_bytes": 3}))], 0) == Spent(0, 3)
    assert spent([past(record(Probe.DISK, {"write_bytes": 9}))], 0) == Spent(70, 80)


def test_a_budget_may_be_used_up_but_not_beyond():
    budgets = msgspec.structs.replace(BUDGETS, network_bytes_per_day=100, disk_write_bytes_per_day=10)
    refuse_beyond(budgets, Cost(1, 60, 10), Spent(40, 0))
    with pytest.raises(RefusedError, match="network_bytes_per_day"):
        refuse_beyond(budgets, Cost(1, 61, 10), Spent(40, 0))


def test_a_run_that_was_alive_when_the_collector_ended_is_interrupted():
    alive = past(record(Probe.DISK, {}), record(Probe.DISK, {}, state="granted"), state=RunState.RUNNING)
    kept = interrupted(replace(alive, ended_unix_ms=None), 9)
    assert (kept.state, kept.ended_unix_ms) == (RunState.INTERRUPTED, 9)
    assert [one.state for one in kept.leases] == ["done", "failed"]
    assert kept.leases_ended == 2
