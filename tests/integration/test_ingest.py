"""Agents attach to a collector over real TLS: what is numbered arrives once, whatever happens to the connection."""

import asyncio
import time

import grpc
import pytest
from tests.integration.proxy import Proxy
from tests.integration.wire_fakes import (
    MemoryCollector,
    MemoryOutbox,
    a_batch,
    a_block,
    a_hello,
    a_report,
    a_window,
    running,
    until,
    world,
)

from cvmprobe.errors import ConfigError
from cvmprobe.model.assignment import LeaseState, Plan, Revoke
from cvmprobe.model.delivery import Batch, Bye, Heartbeat, Loss, Preview, Welcome
from cvmprobe.model.window import Phase
from cvmprobe.v1 import common_pb2, ingest_pb2
from cvmprobe.v1.ingest_pb2_grpc import IngestServiceStub
from cvmprobe.wire import ingest_service, uplink
from cvmprobe.wire.channel import bearer, open_channel
from cvmprobe.wire.codec.ingest import encode_agent_message, encode_hello
from cvmprobe.wire.identity import Access, Principal, StaticTokens

__all__ = ["world"]


@pytest.fixture(autouse=True)
async def _nothing_is_left():
    before = asyncio.all_tasks()
    yield
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()}, 2)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(uplink, "_FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(uplink, "_LAST_DELAY_S", 0.1)


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


async def test_a_newer_attachment_of_the_same_start_ends_the_older_one_first(world):
    collector = MemoryCollector()
    async with world.serve(ingest=collector) as port, open_channel(f"127.0.0.1:{port}", world.client_tls) as channel:
        stub = IngestServiceStub(channel)
        calls = []
        for number in range(3):
            call = stub.Attach(metadata=bearer("agent-a"))
            await call.write(encode_hello(a_hello()))
            assert (await call.read()).WhichOneof("message") == "welcome"
            assert (collector.attached, collector.ended) == (number + 1, number)
            calls.append(call)
        for older in calls[:2]:
            assert await older.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert "newer attachment" in await older.details()
        other = stub.Attach(metadata=bearer("agent-b"))
        await other.write(encode_hello(a_hello(node="b")))
        await other.read()
        assert (collector.attached, collector.ended) == (4, 2)


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


@pytest.mark.parametrize(
    ("token", "node", "reason"),
    [
        ("", "a", "no token was sent"),
        ("guessed", "a", "unknown or expired"),
        ("expired-agent", "a", "unknown or expired"),
        ("viewer", "a", "may not call /cvmprobe.v1.IngestService/Attach"),
        ("agent-b", "a", "agent b may speak for node b, not for a/pod"),
        ("agent-lost", "a", "may speak for no node"),
    ],
)
async def test_who_may_not_attach_is_told_why_and_tries_again(world, token, node, reason):
    collector = MemoryCollector()
    tokens = [token]
    async with world.serve(ingest=collector) as port:
        link = world.uplink(port, MemoryOutbox(), token=token, node=node)
        link._token = lambda: tokens[-1]
        async with running(link):
            await until(lambda: reason in (link.trouble or ""))
            assert link.trouble.startswith(f"127.0.0.1:{port} refuses: ")
            assert collector.attached == 0
            tokens.append("agent-a")
            await until(lambda: link.attached)


async def test_a_live_attachment_ends_with_its_token(world):
    collector = MemoryCollector()
    soon = time.time_ns() // 1_000_000 + 700
    tokens = StaticTokens({"short": Principal("agent a", Access.AGENT, "a", expires_unix_ms=soon)})
    async with world.serve(tokens, ingest=collector) as port:
        link = world.uplink(port, MemoryOutbox(), token="short")
        async with running(link):
            await until(lambda: link.attached)
            await until(lambda: not link.attached and "expired" in link.trouble)
    assert collector.ended == collector.attached == 1


async def test_a_replaced_token_is_used_while_the_old_one_is_still_good(world):
    collector, spool = MemoryCollector(), MemoryOutbox()
    collector.heartbeat_ms = 50_000
    collector.acking = False
    tokens = ["agent-a"]
    authenticator = StaticTokens({token: Principal(token, Access.AGENT, "a") for token in ("agent-a", "second")})
    async with world.serve(authenticator, ingest=collector) as port:
        link = world.uplink(port, spool, start_id="s")

        def token():
            if tokens[-1] is None:
                raise ConfigError("the token file is just being replaced")
            return tokens[-1]

        link._token = token
        spool.beside.append(a_report("early"))
        spool.add(a_batch(1))
        async with running(link):
            await until(lambda: 1 in collector.stored.get("s", {}))
            for unchanged in ("agent-a", None):
                tokens.append(unchanged)
                collector.sends["s"](Heartbeat())
                spool.beside.append(a_report(str(unchanged)))
                link.wake()
                await until(lambda unchanged=unchanged: a_report(str(unchanged)) in collector.beside)
            assert collector.attached == 1
            tokens.append("second")
            collector.sends["s"](Heartbeat())
            await until(lambda: collector.attached == 2 and link.attached)
            collector.acking = True
            spool.add(a_batch(2))
            link.wake()
            await until(lambda: spool.forgotten == 2)
    assert link.trouble is None or "cannot be reached" not in link.trouble
    assert collector.attached == 2
    assert collector.beside == [a_report("early"), a_report("agent-a"), a_report("None")]
    assert set(collector.stored["s"]) == {1, 2}


async def raw_attachment(world, port, *requests):
    """Send ``requests`` after a Hello, and end the stream; gives the responses' kinds, the status and its text."""
    async with open_channel(f"127.0.0.1:{port}", world.client_tls) as channel:
        call = IngestServiceStub(channel).Attach(metadata=bearer("agent-a"))
        for request in requests:
            await call.write(request)
        await call.done_writing()
        kinds = []
        try:
            kinds.extend([response.WhichOneof("message") async for response in call])
        except grpc.aio.AioRpcError as error:
            return kinds, error.code(), error.details()
        return kinds, await call.code(), ""


async def test_duplicates_and_disorder_reach_the_store_and_asides_are_taken_once(world):
    collector = MemoryCollector()
    requests = [encode_agent_message(a_batch(seq)) for seq in (2, 1, 1, 3, 2)]
    requests += [encode_agent_message(a_report(str(aside)), aside) for aside in (1, 2, 2, 1, 3)]
    async with world.serve(ingest=collector) as port:
        for _ in range(2):
            kinds, code, _ = await raw_attachment(world, port, encode_hello(a_hello()), *requests)
            assert code == grpc.StatusCode.OK
            assert kinds.count("receipt") == 5
    assert sorted(collector.stored["start"]) == [1, 2, 3]
    assert collector.beside == [a_report("1"), a_report("2"), a_report("3")]


def unreadable(kind):
    request = {
        "batch": encode_agent_message(a_batch(1)),
        "preview": encode_agent_message(Preview(a_batch(1).windows)),
        "samples": encode_agent_message(a_block(1), 1),
    }[kind]
    part = getattr(request, kind)
    if kind == "samples":
        part.crc32 ^= 1
    else:
        part.windows[0].phase = 99
    return request


async def test_what_cannot_be_read_costs_itself_alone(world, caplog):
    collector = MemoryCollector()
    requests = [unreadable("batch"), unreadable("samples"), unreadable("preview"), encode_agent_message(a_batch(2))]
    newer = ingest_pb2.AttachRequest.FromString(b"\xfa\x3e\x03abc")
    async with world.serve(ingest=collector) as port:
        _, code, _ = await raw_attachment(world, port, encode_hello(a_hello()), *requests, newer)
        assert code == grpc.StatusCode.OK
    lost = collector.stored["start"][1]
    assert isinstance(lost, Loss)
    assert "phase: unknown value 99" in lost.reason
    assert collector.stored["start"][2] == a_batch(2)
    assert collector.beside == []
    assert collector.previews == []
    assert "crc32" in caplog.text


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], "ended before a Hello"),
        ([ingest_pb2.AttachRequest()], "first message was empty"),
        ([ingest_pb2.AttachRequest(hello=ingest_pb2.Hello(version="1"))], "hello.endpoint.node: is empty"),
        ([encode_hello(a_hello()), encode_hello(a_hello())], "came a second time"),
        ([encode_hello(a_hello()), ingest_pb2.AttachRequest(batch=ingest_pb2.Batch())], "batch.seq: 0 is below 1"),
    ],
)
async def test_a_stream_out_of_order_is_refused_by_name(world, requests, reason):
    async with world.serve(ingest=MemoryCollector()) as port:
        _, code, text = await raw_attachment(world, port, *requests)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert reason in text


async def test_a_caller_that_keeps_silent_is_sent_away(world, monkeypatch):
    monkeypatch.setattr(ingest_service, "_HELLO_S", 0.05)
    async with world.serve(ingest=MemoryCollector()) as port:
        async with open_channel(f"127.0.0.1:{port}", world.client_tls) as channel:
            call = IngestServiceStub(channel).Attach(metadata=bearer("agent-a"))
            assert await asyncio.wait_for(call.code(), 10) == grpc.StatusCode.INVALID_ARGUMENT
            assert "no Hello" in await call.details()


async def test_an_agent_that_does_not_read_is_given_up(world):
    collector = MemoryCollector()
    async with world.serve(ingest=collector) as port:
        async with open_channel(f"127.0.0.1:{port}", world.client_tls) as channel:
            call = IngestServiceStub(channel).Attach(metadata=bearer("agent-a"))
            await call.write(encode_hello(a_hello()))
            await until(lambda: "start" in collector.sends)
            for _ in range(2 * ingest_service._OUTBOUND_CAP):
                collector.sends["start"](Heartbeat())
            await until(lambda: collector.ended == 1)
            collector.sends["start"](Heartbeat())  # does nothing, and does not fail


async def test_older_and_newer_agents_are_understood(world):
    """A newer one sends fields we do not know; an older one leaves out what it does not know."""
    collector = MemoryCollector()
    unknown_field = b"\xfa\x3e\x03abc"
    newer = ingest_pb2.AttachRequest.FromString(encode_agent_message(a_batch(1)).SerializeToString() + unknown_field)
    newer.batch.windows[0].MergeFromString(unknown_field)
    older = encode_agent_message(a_batch(2))
    older.batch.windows[0].instance.ClearField("parameters")
    hello = encode_hello(a_hello())
    hello.hello.MergeFromString(unknown_field)
    async with world.serve(ingest=collector) as port:
        _, code, _ = await raw_attachment(world, port, hello, newer, older)
    assert code == grpc.StatusCode.OK
    assert collector.stored["start"][1] == a_batch(1)
    assert collector.stored["start"][2].windows[0].instance.parameters == {}


async def test_a_failing_handler_fails_its_call_and_no_other(world, caplog):
    class Broken(MemoryCollector):
        async def attach(self, hello, principal, send, messages):
            if hello.start_id == "bad":
                raise KeyError("a bug")
            await super().attach(hello, principal, send, messages)

    collector, spool = Broken(), MemoryOutbox()
    spool.add(a_batch(1))
    async with world.serve(ingest=collector) as port:
        _, code, _ = await raw_attachment(world, port, encode_hello(a_hello(start_id="bad")))
        assert code == grpc.StatusCode.UNKNOWN
        async with running(world.uplink(port, spool, start_id="good")):
            await until(lambda: spool.forgotten == 1)


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


def test_phases_have_the_numbers_that_are_on_the_wire():
    assert [common_pb2.Phase.Value(f"PHASE_{phase.name}") for phase in Phase] == [1, 2, 3]
