"""Agents attach to a collector over real TLS: what is numbered arrives once, whatever happens to the connection."""

import asyncio

import pytest
from tests.integration.proxy import Proxy
from tests.integration.waiting import until
from tests.integration.wire_fakes import (
    MemoryCollector,
    MemoryOutbox,
    a_batch,
    a_block,
    a_hello,
    a_report,
    a_window,
    impatient,
    nothing_is_left,
    running,
    world,
)

from cvmprobe.model.assignment import LeaseState, Plan, Revoke
from cvmprobe.model.delivery import Batch, Bye, Heartbeat, Loss, Preview, Welcome
from cvmprobe.wire import uplink

__all__ = ["impatient", "nothing_is_left", "world"]


async def test_batches_are_stored_then_forgotten_and_bye_ends_the_start(world):
    collector, spool, received = MemoryCollector(), MemoryOutbox(), []
    async with world.serve(ingest=collector) as port:
        link = world.uplink(port, spool, received, start_id="s")
        assert not link.attached
        async with running(link) as task:
            for seq in range(1, 4):
                spool.add(a_batch(seq))
            link.wake()
            await until(lambda: spool.forgotten == 3)
            assert link.attached
            assert link.trouble is None
            spool.add(Loss(4, 6, "the spool was full"))
            spool.add(a_batch(7))
            link.wake()
            link.finish(Bye(7))
            await asyncio.wait_for(task, 10)
    assert collector.stored["s"] == {
        1: a_batch(1),
        2: a_batch(2),
        3: a_batch(3),
        4: Loss(4, 6, "the spool was full"),
        7: a_batch(7),
    }
    assert collector.byes == [Bye(7)]
    assert collector.hellos == [a_hello(start_id="s")]
    assert collector.ended == 1
    assert received == [Welcome(0, 2000)]
    assert not spool.numbered


async def test_the_collectors_messages_reach_the_agent_in_order(world):
    collector, received = MemoryCollector(), []
    async with world.serve(ingest=collector) as port:
        async with running(world.uplink(port, MemoryOutbox(), received, start_id="s")):
            await until(lambda: "s" in collector.sends)
            sent = [Plan("p", 1000), Heartbeat(), Revoke("l", "cancelled")]
            for message in sent:
                collector.sends["s"](message)
            await until(lambda: len(received) == 4)
    assert received[1:] == sent


async def test_nothing_is_lost_or_taken_twice_through_cuts_delays_and_splits(world):
    collector, spool = MemoryCollector(), MemoryOutbox()
    async with world.serve(ingest=collector) as port, Proxy(port) as proxy:
        proxy.chunk_bytes = 700
        proxy.delay_s = 0.0005
        link = world.uplink(proxy.port, spool, start_id="s")
        async with running(link) as task:
            for seq in range(1, 301):
                spool.add(a_batch(seq))
            spool.beside.extend(a_report(f"lease-{number}") for number in range(40))
            spool.beside.extend(a_block(number) for number in range(40))
            link.wake()
            for kept in range(20, 300, 40):
                await until(lambda kept=kept: len(collector.stored.get("s", ())) >= kept)
                proxy.cut_after(kept * 13)
            await until(lambda: spool.forgotten == 300)
            link.finish(Bye(300))
            await asyncio.wait_for(task, 20)
    assert collector.attached > 3
    assert sorted(collector.stored["s"]) == list(range(1, 301))
    assert all(collector.stored["s"][seq] == a_batch(seq) for seq in collector.stored["s"])
    assert collector.beside == [a_report(f"lease-{n}") for n in range(40)] + [a_block(n) for n in range(40)]
    assert collector.byes[-1] == Bye(300)


async def test_a_collector_that_comes_back_elsewhere_gets_the_rest(world):
    before, after, spool = MemoryCollector(), MemoryCollector(), MemoryOutbox()
    after.stored = before.stored  # the same disk
    async with Proxy(0) as proxy:
        link = world.uplink(proxy.port, spool, start_id="s")
        async with running(link):
            async with world.serve(ingest=before) as port:
                proxy.target = port
                spool.add(a_batch(1))
                link.wake()
                await until(lambda: spool.forgotten == 1)
                before.acking = False  # kept, but the ack never leaves
                spool.add(a_batch(2))
                link.wake()
                await until(lambda: 2 in before.stored["s"])
            await until(lambda: not link.attached)
            spool.add(a_batch(3))
            async with world.serve(ingest=after) as port:
                proxy.target = port
                await until(lambda: spool.forgotten == 3)
    assert after.duplicates == 0  # Welcome said that 2 was there
    assert sorted(after.stored["s"]) == [1, 2, 3]


async def test_a_silent_collector_counts_as_gone_and_the_half_open_attachment_is_replaced(world):
    collector, spool = MemoryCollector(), MemoryOutbox()
    collector.heartbeat_ms = 60
    async with world.serve(ingest=collector) as port, Proxy(port) as proxy:
        link = world.uplink(proxy.port, spool, start_id="s")
        async with running(link):
            await until(lambda: link.attached)
            collector.heartbeat_ms = 60_000
            proxy.freeze()
            await until(lambda: collector.attached == 2)
            assert collector.ended == 1
            spool.add(a_batch(1))
            link.wake()
            await until(lambda: spool.forgotten == 1)
            assert "silent" in link._trouble


async def test_a_stalled_path_delays_and_loses_nothing(world):
    collector, spool = MemoryCollector(), MemoryOutbox()
    async with world.serve(ingest=collector) as port, Proxy(port) as proxy:
        link = world.uplink(proxy.port, spool, start_id="s")
        async with running(link):
            await until(lambda: link.attached)
            proxy.stall()
            for seq in range(1, 50):
                spool.add(a_batch(seq))
            link.wake()
            await asyncio.sleep(0.05)
            assert spool.forgotten == 0
            proxy.resume()
            await until(lambda: spool.forgotten == 49)
    assert collector.attached == 1


async def test_what_does_not_fit_is_declared_lost_and_the_stream_goes_on(world):
    collector, spool = MemoryCollector(), MemoryOutbox()
    async with world.serve(ingest=collector) as port:
        link = world.uplink(port, spool, start_id="s")
        async with running(link):
            spool.add(Batch(1, (a_window(1, reads=-1),)))
            spool.add(Batch(2, (a_window(1, **{f"{number}" * 100: number for number in range(9)}),) * 5000))
            spool.add(a_batch(3))
            link.wake()
            await until(lambda: spool.forgotten == 3)
    assert "cannot be sent" in collector.stored["s"][1].reason
    assert "at most 4194304" in collector.stored["s"][2].reason
    assert collector.stored["s"][3] == a_batch(3)


async def test_a_long_block_of_samples_travels_in_parts(world):
    collector, spool = MemoryCollector(), MemoryOutbox()
    async with world.serve(ingest=collector) as port:
        link = world.uplink(port, spool, start_id="s")
        async with running(link):
            spool.beside = [a_block(7, rows=300_000), Preview((a_window(5),)), a_report("l", LeaseState.RUNNING)]
            link.wake()
            await until(lambda: collector.beside and collector.beside[-1] == a_report("l", LeaseState.RUNNING))
    *parts, _ = collector.beside
    assert b"".join(part.rows for part in parts) == a_block(7, rows=300_000).rows
    assert max(len(part.rows) for part in parts) == 16_384 * 16
    assert collector.previews == [Preview((a_window(5),))]


async def test_lease_reports_and_samples_wait_in_the_outbox_when_the_collector_is_slow(world):
    class Deaf(MemoryCollector):
        async def attach(self, hello, principal, send, messages):
            send(Welcome(0, 60_000))
            await asyncio.Event().wait()

    spool = MemoryOutbox()
    spool.beside = [a_report(str(number)) for number in range(100)]
    async with world.serve(ingest=Deaf()) as port:
        link = world.uplink(port, spool, start_id="s")
        async with running(link):
            await until(lambda: len(spool.beside) == 100 - uplink._ASIDES_CAP)
            await asyncio.sleep(0.05)
            assert len(spool.beside) == 100 - uplink._ASIDES_CAP


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancel_that_meets_an_error_is_not_lost(steps):
    broken = asyncio.Event()

    async def breaks():
        await broken.wait()
        raise ValueError

    both = asyncio.create_task(uplink._together(breaks(), asyncio.Event().wait()))
    await asyncio.sleep(0)
    broken.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    in_time = both.cancel()
    await asyncio.wait({both})
    assert both.cancelled() if in_time else type(both.exception()) is ValueError
