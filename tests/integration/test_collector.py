"""A real collector over real TLS: runs from end to end, kills that lose nothing acked, orderly ends."""

import asyncio
import random
from collections import Counter

import pytest
from tests.integration.collector_process import NOW_MS, Agent, Collector, collector, hold
from tests.integration.waiting import until

from cvmprobe.errors import RefusedError, UsageError
from cvmprobe.model.assignment import Side
from cvmprobe.model.query import Attachment, Selection, SnapshotFormat, TimeRange
from cvmprobe.model.run import RunState

ALL, ALWAYS = Selection(), TimeRange()


async def stored_ends(client, node="a"):
    """How often each window end of a node is in the store."""
    return Counter(
        [window.end_unix_ms - NOW_MS async for window in client.query_windows(Selection(nodes=(node,)), ALWAYS)]
    )


async def wait_for_end(client, run_id):
    async with asyncio.timeout(60):
        seen = [run async for run in client.watch_run(run_id)]
    assert seen[-1].state.ended
    return seen


async def test_a_run_goes_from_the_first_lease_to_the_snapshot(tmp_path):
    async with collector(tmp_path) as served, served.client() as client:
        agents = [Agent(served, "a"), Agent(served, "b")]
        for agent in agents:
            await agent.attached()
        run = await client.start_run("quick", 0.1)
        assert (run.suite, run.scale, run.leases_total) == ("quick", 0.1, 5 + 1)
        seen = await wait_for_end(client, run.run_id)
        ended = seen[-1]
        assert ended.state is RunState.DONE, ended.detail
        assert [one.leases_ended for one in seen] == sorted(one.leases_ended for one in seen)
        assert {record.totals["transactions"] for record in ended.leases} == {20}

        windows = [window async for window in client.query_windows(Selection(run_id=run.run_id), ALWAYS)]
        assert len(windows) == 2 * ended.leases_total
        assert {window.instance.assignment_id for window in windows} == {record.lease_id for record in ended.leases}
        sums = [row for row in await client.summarize(Selection(run_id=run.run_id), ALWAYS) if row.windows]
        assert {row.metric for row in sums} >= {"transactions", "sent_bytes"}
        chunks = [
            chunk
            async for chunk in client.export_snapshot(
                run.run_id, ALWAYS, with_samples=True, snapshot_format=SnapshotFormat.ZIP
            )
        ]
        assert b"".join(chunks).startswith(b"PK")
        assert not list(served.state.glob("export*"))

        for agent in agents:
            await agent.bye()
        nodes = await client.list_nodes()
        assert [node.attachment for node in nodes] == [Attachment.ENDED] * 2
        assert all(node.numbered == node.stored and (node.pending, node.lost) == (0, 0) for node in nodes)


async def test_kills_of_the_collector_lose_nothing_acked_and_store_nothing_twice(tmp_path):
    chance = random.Random(7)
    async with collector(tmp_path) as served:
        agent = Agent(served, "a")
        end = 0
        for _ in range(3):
            await agent.attached()
            acked_before = agent.acked
            goal = acked_before + chance.randint(5, 30)
            async with asyncio.timeout(20):
                while agent.acked < goal:
                    end += 1
                    agent.add(agent.window(end))
                    await asyncio.sleep(0.002)
            claimed = agent.acked
            await served.kill()
            (served.state / "export-cut-off").mkdir()
            await served.start()
            assert not (served.state / "export-cut-off").exists()
            await agent.attached()
            assert agent.welcomes[-1].stored_seq >= claimed
        await until(lambda: agent.acked == agent.last_seq)
        async with served.client() as client:
            assert await stored_ends(client) == Counter(range(1, end + 1))
            (node,) = [node for node in await client.list_nodes() if node.endpoint == agent.endpoint]
            assert (node.stored, node.pending, node.lost) == (agent.last_seq, 0, 0)
        await agent.bye()


async def test_a_run_cut_off_by_a_kill_is_interrupted_and_its_lease_revoked(tmp_path):
    async with collector(tmp_path) as served:
        agents = [Agent(served, "a", behave=hold), Agent(served, "b", behave=hold)]
        for agent in agents:
            await agent.attached()
        async with served.client() as client:
            run = await client.start_run("quick", 1)
            await until(lambda: all(agent.leases for agent in agents))
            async for one in client.watch_run(run.run_id):
                if one.leases and one.leases[0].state == "running":
                    break
        agents[0].add(agents[0].window(1))
        await until(lambda: agents[0].acked == 1)  # so what came before is stored: the run as it stood
        await served.kill()
        await served.start()
        async with served.client() as client:
            (kept,) = await client.list_runs()
            assert (kept.run_id, kept.state) == (run.run_id, RunState.INTERRUPTED)
            assert kept.leases_ended == len(kept.leases) == 1
            for agent in agents:
                await agent.attached()
                hold(agent, agent.leases[0])  # as an agent repeats after a re-attach
                await until(lambda agent=agent: agent.revokes)
            assert (await client.start_run("quick", 1)).state is RunState.RUNNING


async def test_an_agent_that_vanishes_leaves_a_gap_of_unknown_size_until_it_returns(tmp_path):
    async with collector(tmp_path) as served, served.client() as client:
        agent = Agent(served, "a")
        agent.add(agent.window(1))
        agent.lose("spool full")
        await until(lambda: agent.acked == 2)
        await agent.vanish()

        async def status():
            return next(node for node in await client.list_nodes() if node.endpoint == agent.endpoint)

        async with asyncio.timeout(20):
            while (await status()).attachment is not Attachment.LOST:
                await asyncio.sleep(0.01)
        lost = await status()
        assert (lost.stored, lost.numbered, lost.pending, lost.lost) == (1, None, None, None)

        again = Agent(served, "a")
        again.last_seq = 2
        again.add(again.window(3))
        await until(lambda: again.acked == 3)
        assert again.welcomes[0].stored_seq == 2
        there = await status()
        assert there.attachment is Attachment.ATTACHED
        assert (there.numbered, there.stored, there.pending, there.lost) == (3, 2, 0, 1)


async def test_an_agent_killed_in_a_lease_makes_the_run_partial(tmp_path):
    async with collector(tmp_path) as served, served.client() as client:
        a, b = Agent(served, "a"), Agent(served, "b", behave=hold)
        await a.attached()
        await b.attached()
        run = await client.start_run("quick", 0.1)
        await until(lambda: any(lease.side is Side.INITIATOR for lease in b.leases))
        await b.vanish()
        again = Agent(served, "b", start="start-2")
        *_, ended = await wait_for_end(client, run.run_id)
        assert ended.state is RunState.PARTIAL
        assert "b/pod has restarted" in ended.detail
        assert ended.leases_ended == ended.leases_total
        assert Counter(record.state for record in ended.leases)["done"] >= 2
        assert again.leases
        await until(lambda: a.revokes)


async def test_sigterm_stops_the_run_and_ends_in_order(tmp_path):
    async with collector(tmp_path) as served:
        agents = [Agent(served, "a", behave=hold), Agent(served, "b", behave=hold)]
        for agent in agents:
            await agent.attached()
        async with served.client() as client:
            await client.start_run("quick", 1)
            with pytest.raises(RefusedError, match="is alive"):
                await client.start_run("quick", 1)
        await until(lambda: all(agent.leases for agent in agents))
        agents[0].add(agents[0].window(1))
        await until(lambda: agents[0].acked == 1)
        assert await served.end() == 0
        assert all(agent.revokes for agent in agents)
        assert not (served.state / "endpoint.json").exists()
        await served.start()
        async with served.client() as client:
            assert [run.state for run in await client.list_runs()] == [RunState.INTERRUPTED]
            assert await stored_ends(client) == Counter([1])


async def test_many_who_connect_at_once_do_not_bring_it_down(tmp_path):
    async with collector(tmp_path) as served:

        async def ask():
            async with served.client() as client:
                return len(await client.list_nodes())

        for _ in range(10):
            assert await asyncio.gather(*(ask() for _ in range(20))) == [2] * 20
        assert served.process.returncode is None


async def test_it_ends_when_its_stdin_closes(tmp_path):
    async with collector(tmp_path) as served:
        served.process.stdin.close()
        assert await asyncio.wait_for(served.process.wait(), 30) == 0
        assert not (served.state / "endpoint.json").exists()


async def test_live_windows_samples_and_heartbeats_reach_those_who_wait(tmp_path):
    async with collector(tmp_path) as served, served.client() as client:
        agent = Agent(served, "a")
        await agent.attached()
        await until(lambda: agent.heartbeats and agent.plans)
        async with client.watching(ALL) as watch:
            agent.add(agent.window(1))
            assert await asyncio.wait_for(anext(watch), 20) == agent.window(1)
            assert [window async for window in client.query_windows(ALL, ALWAYS)] == [agent.window(1)]
        (probe,) = await client.list_probes(ALL)
        assert probe.windows == 1
        await agent.bye()


async def test_a_run_that_there_is_not_is_said(tmp_path):
    async with collector(tmp_path) as served, served.client() as client:
        nosuch = Selection(run_id="nosuch")
        with pytest.raises(UsageError, match="there is no run 'nosuch'"):
            await client.summarize(nosuch, ALWAYS)
        with pytest.raises(UsageError, match="there is no run 'nosuch'"):
            await anext(client.query_windows(nosuch, ALWAYS))


async def test_without_budgets_no_run_starts(tmp_path):
    async with collector(tmp_path, budgets="") as served, served.client() as client:
        agents = [Agent(served, "a"), Agent(served, "b")]
        for agent in agents:
            await agent.attached()
        with pytest.raises(RefusedError, match="network_bytes_per_day = 0"):
            await client.start_run("quick", 1)
        with pytest.raises(UsageError, match="no suite 'quik'"):
            await client.start_run("quik", 1)
        assert not any(agent.leases for agent in agents)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda served: served.tokens.chmod(0o644), "open to others"),
        (lambda served: served.tokens.unlink(), "tokens file"),
        (lambda served: served.tokens.write_text('{"secret": 3}'), "tokens file"),
        (lambda served: setattr(served, "address", "nowhere.invalid:1"), "nowhere.invalid"),
        (lambda served: setattr(served, "budgets", "disk_byte = 1\n"), "disk_byte"),
    ],
)
async def test_what_it_cannot_start_with_is_said_in_one_line(tmp_path, break_it, complaint):
    served = Collector(tmp_path)
    break_it(served)
    with pytest.raises(AssertionError):
        await served.start()
    said = [line for line in served.log.read_text().strip().splitlines() if "add_port.cc" not in line]  # gRPC's own
    assert len(said) == 1
    assert complaint in said[0]
    assert "secret" not in said[0]
    assert served.process.returncode == 2
