"""What a collector makes of an agent's stream, message by message: repeats, disorder, unreadable and unknown parts."""

import asyncio

import grpc
import pytest
from tests.integration.waiting import until
from tests.integration.wire_fakes import (
    MemoryCollector,
    MemoryOutbox,
    a_batch,
    a_block,
    a_hello,
    a_report,
    impatient,
    nothing_is_left,
    running,
    world,
)

from cvmprobe.model.delivery import Heartbeat, Loss, Preview
from cvmprobe.model.window import Phase
from cvmprobe.v1 import common_pb2, ingest_pb2
from cvmprobe.v1.ingest_pb2_grpc import IngestServiceStub
from cvmprobe.wire import ingest_service
from cvmprobe.wire.channel import bearer, open_channel
from cvmprobe.wire.codec.ingest import encode_agent_message, encode_hello

__all__ = ["impatient", "nothing_is_left", "world"]


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


async def test_the_starts_of_one_endpoint_are_a_few_and_the_newest(world):
    collector = MemoryCollector()
    async with world.serve(ingest=collector) as port, open_channel(f"127.0.0.1:{port}", world.client_tls) as channel:
        calls = []
        for node, start in [("b", "other"), *(("a", f"start-{number}") for number in range(6))]:
            call = IngestServiceStub(channel).Attach(metadata=bearer(f"agent-{node}"))
            await call.write(encode_hello(a_hello(node, start)))
            assert (await call.read()).WhichOneof("message") == "welcome"
            calls.append(call)
        assert [await older.code() for older in calls[1:3]] == [grpc.StatusCode.FAILED_PRECONDITION] * 2
        assert (collector.attached, collector.ended) == (7, 2)
        assert not any(call.done() for call in (calls[0], *calls[3:]))


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


def test_phases_have_the_numbers_that_are_on_the_wire():
    assert [common_pb2.Phase.Value(f"PHASE_{phase.name}") for phase in Phase] == [1, 2, 3]
