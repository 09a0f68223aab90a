"""Ingest: acked means stored, what is missing is declared, and numbered = stored + pending + lost."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.ingesting import (
    A,
    Agent,
    B,
    Collector,
    attach,
    batch,
    block,
    hello,
    quick_retries,
    stream,
    until,
    window,
)
from tests.unit.memory_store import MemoryStore

from cvmprobe.collector.ingest import declare_unfinished
from cvmprobe.errors import DeniedError, UnreachableError
from cvmprobe.model.assignment import LeaseReport, LeaseState, Side
from cvmprobe.model.delivery import Batch, Bye, Loss, Preview
from cvmprobe.model.query import Attachment, Selection

__all__ = ["quick_retries"]


async def test_batches_are_acked_once_they_are_stored_and_not_before():
    async with Collector().running() as collector:
        agent = await attach(collector)
        assert agent.welcome.stored_seq == 0
        collector.store.refuse = lambda stream: True
        await agent.send(batch(1), batch(2))
        await asyncio.sleep(0)
        assert agent.acked == 0
        collector.store.refuse = lambda stream: False
        await agent.settled()
        assert agent.acked == 2
        assert set(collector.store.batches[stream()]) == {1, 2}
        assert ("stored", "s1", 2) in collector.listener.heard


async def test_a_group_is_committed_without_being_asked_for():
    async with Collector().running() as collector:
        agent = await attach(collector)
        before = collector.store.commits
        await agent.send(*(batch(seq) for seq in range(1, 6)))
        await until(lambda: agent.acked == 5)
        assert collector.store.commits == before + 1


async def test_an_agent_resumes_where_the_store_is_and_repeats_change_nothing():
    async with Collector().running() as collector:
        first = await attach(collector)
        await first.send(batch(1), batch(2))
        await first.leave()
        again = await attach(collector)
        assert again.welcome.stored_seq == 2
        await again.send(batch(2), batch(3))
        await again.settled()
        assert again.acked == 3
        assert sorted(collector.store.batches[stream()]) == [1, 2, 3]


async def test_a_stream_that_ends_without_bye_is_an_open_gap_until_it_returns():
    async with Collector().running() as collector:
        agent = await attach(collector)
        await agent.send(batch(1))
        await agent.leave()
        await collector.writer.flush()
        lost = await collector.status()
        assert (lost.attachment, lost.stored) == (Attachment.LOST, 1)
        assert (lost.numbered, lost.pending, lost.lost) == (None, None, None)
        assert collector.store.open[stream()].first_seq == 2
        assert collector.listener.heard[-1] != ("attached", A)
        await attach(collector)
        assert not collector.store.open
        assert (await collector.status()).attachment is Attachment.ATTACHED


async def test_bye_closes_the_books():
    async with Collector().running() as collector:
        agent = await attach(collector)
        await agent.send(batch(1), Loss(2, 3, "spool full"), Bye(3))
        await agent.task
        await collector.writer.flush()
        ended = await collector.status()
        assert ended.attachment is Attachment.ENDED
        assert (ended.numbered, ended.stored, ended.pending, ended.lost) == (3, 1, 0, 2)
        assert ("detached", A) in collector.listener.heard


async def test_a_skipped_number_is_declared_lost():
    async with Collector().running() as collector:
        agent = await attach(collector)
        await agent.send(batch(1), batch(4))
        await agent.settled()
        assert agent.acked == 4
        assert collector.store.declared[stream()] == {2, 3}


async def test_an_agent_that_skips_much_waits_until_its_losses_are_written(monkeypatch):
    async with Collector().running() as collector:
        agent = await attach(collector)
        flush, waiting = collector.writer.flush, []

        async def counted(of=None):
            waiting.append(len(collector.writer._work.acts.get(of, [])))
            await flush(of)

        monkeypatch.setattr(collector.writer, "flush", counted)
        await agent.send(*(batch(2 * number) for number in range(1, 101)))
        await until(lambda: agent.acked == 200)
        assert len(waiting) == 3
        assert max(waiting) <= 32
        assert collector.store.declared[stream()] == set(range(1, 200, 2))


async def test_a_new_start_takes_the_place_of_the_old_one():
    async with Collector().running() as collector:
        old = await attach(collector, hello("s1"))
        new = await attach(collector, hello("s2"))
        await old.send(batch(1))
        await old.leave()
        await new.send(batch(1))
        await new.settled()
        assert new.acked == 1
        assert collector.roster.get(A).stream == stream("s2")
        assert ("detached", A) not in collector.listener.heard
        assert collector.store.open[stream("s1")].last_seq is None
        assert set(collector.store.batches[stream("s1")]) == {1}


async def test_a_replaced_attachment_loses_nothing_it_has_brought():
    async with Collector().running() as collector:
        half_open = await attach(collector)
        await half_open.send(batch(1), batch(2))
        half_open.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await half_open.task
        again = await attach(collector)
        assert again.welcome.stored_seq == 2
        assert not collector.store.open


async def test_nobody_speaks_for_another():
    async with Collector().running() as collector:
        for forged in (batch(1, source=B), Preview((window(1, source=B),))):
            agent = await attach(collector)
            await agent.send(forged)
            with pytest.raises(DeniedError, match=r"a/pod may not speak for b/pod"):
                await agent.task
        await collector.writer.flush()
        assert not collector.store.batches
        assert not collector.live.probes(lambda instance: True)


async def test_one_refused_stream_holds_up_nobody_else():
    async with Collector().running() as collector:
        bad, good = await attach(collector, hello("bad")), await attach(collector, hello("good", B))
        collector.store.refuse = lambda asked: asked == stream("bad")
        await bad.send(batch(1))
        await good.send(batch(1, B))
        await until(lambda: good.acked == 1)
        assert bad.acked == 0
        with pytest.raises(UnreachableError, match="disk is full"):
            await Agent(collector, hello("bad")).task
        collector.store.refuse = lambda asked: False
        await until(lambda: bad.acked == 1)


async def test_a_stream_that_cannot_be_stored_is_not_read_on_for_ever():
    async with Collector().running() as collector:
        agent = await attach(collector)
        collector.store.refuse = lambda asked: True
        many = Batch(1, tuple(window(end) for end in range(6_000)))
        await agent.send(many)
        agent.queue.put_nowait(batch(2))
        agent.queue.put_nowait(batch(3))
        await until(lambda: agent.queue.qsize() == 1)
        await asyncio.sleep(0.01)
        assert agent.queue.qsize() == 1
        collector.store.refuse = lambda asked: False
        await until(lambda: agent.acked == 3)


async def test_of_a_stream_of_large_windows_less_is_read_on():
    facts = {"note": "x" * 60_000}
    async with Collector().running() as collector:
        agent = await attach(collector)
        collector.store.refuse = lambda asked: True
        large = [Batch(seq, tuple(replace(window(seq), facts=facts) for _ in range(400))) for seq in (1, 2)]
        await agent.send(*large)
        agent.queue.put_nowait(batch(3))
        agent.queue.put_nowait(batch(4))
        await until(lambda: agent.queue.qsize() == 1)
        await asyncio.sleep(0.01)
        assert agent.queue.qsize() == 1
        collector.store.refuse = lambda asked: False
        await until(lambda: agent.acked == 4)


async def test_samples_that_cannot_be_stored_are_counted():
    async with Collector().running() as collector:
        agent = await attach(collector)
        await agent.send(block(1))
        await agent.settled()
        collector.store.refuse = lambda asked: True
        await agent.send(block(2))
        with suppress(Exception):
            await agent.settled()
        collector.store.refuse = lambda asked: False
        await agent.settled()
        assert [one.clock.unix_ns for one in collector.store.blocks] == [1]
        assert collector.writer.samples_lost == 1


async def test_reports_previews_and_samples_reach_those_who_wait():
    async with Collector().running() as collector:
        agent = await attach(collector)
        watch = collector.live.watch_windows(lambda instance: True)
        first = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await agent.send(Preview((window(7),)), batch(1), batch(1), LeaseReport("x", Side.INITIATOR, LeaseState.ARMED))
        assert (await first).end_unix_ms == 7
        assert (await anext(watch)).end_unix_ms == 1
        late = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.01)
        assert not late.done()
        late.cancel()
        with suppress(asyncio.CancelledError):
            await late
        await watch.aclose()
        (probe,) = collector.live.probes(Selection(nodes=("a",)).selects)
        assert (probe.windows, probe.last_end_unix_ms) == (1, 7)
        assert ("reported", "x") in collector.listener.heard


async def test_an_agent_that_serves_gets_a_certificate_for_its_own_name():
    async with Collector().running() as collector:
        assert (await attach(collector, hello("s1", service=5000))).welcome.certificate_pem == b"pod.a.agent.cvmprobe"
        assert (await attach(collector, hello("s2"))).welcome.certificate_pem == b""


async def test_streams_cut_off_by_the_end_of_the_collector_are_open_gaps():
    store = MemoryStore()
    async with Collector(store).running() as collector:
        ended = await attach(collector, hello("ended", B))
        await ended.send(Bye(0))
        await ended.task
        cut = await attach(collector, hello("cut"))
        await cut.send(batch(1))
        await cut.settled()
        declare_unfinished(store)  # as a collector does that was killed here and starts again
        assert list(store.open) == [stream("cut")]
        assert store.open[stream("cut")].first_seq == 2
        await cut.leave()


async def test_an_expected_node_that_never_came_is_pending():
    async with Collector().running() as collector:
        status = await collector.status()
        assert (status.endpoint, status.attachment, status.numbered) == (A, Attachment.PENDING, None)


MESSAGES = st.lists(
    st.one_of(
        st.integers(1, 3).map(lambda step: ("batch", step)),
        st.integers(1, 3).map(lambda count: ("loss", count)),
        st.sampled_from([("break", 0), ("flush", 0), ("refuse", 0), ("allow", 0), ("repeat", 0)]),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=40)
@given(MESSAGES)
def test_numbered_is_stored_pending_and_lost_at_every_moment(script):
    async def play():
        async with Collector().running() as collector:
            agent, seq, sent = await attach(collector), 0, []
            for kind, count in script:
                if kind == "batch":
                    seq += count
                    sent.append(seq)
                    await agent.send(batch(seq))
                elif kind == "loss":
                    await agent.send(Loss(seq + 1, seq + count, "shed"))
                    seq += count
                elif kind == "repeat" and sent:
                    await agent.send(batch(sent[-1]))
                elif kind == "break" and not collector.store.refuse(None):
                    await agent.leave()
                    agent = await attach(collector)
                elif kind == "flush" and not collector.store.refuse(None):
                    await agent.settled()
                elif kind in ("refuse", "allow"):
                    collector.store.refuse = lambda asked, now=kind == "refuse": now
                status = await collector.status()
                assert status.numbered == status.stored + status.pending + status.lost == seq
                assert agent.acked <= collector.store.stored_seq(stream())
            collector.store.refuse = lambda asked: False
            await until(lambda: collector.store.stored_seq(stream()) == seq)
            assert sorted(collector.store.batches.get(stream(), {})) == sent
            await agent.send(Bye(seq))
            await agent.task
            await collector.writer.flush()
            ended = await collector.status()
            assert (ended.numbered, ended.pending) == (seq, 0)

    asyncio.run(play())
