"""People and programs ask a collector, or an agent, over real TLS: answers, refusals, and watchers that are slow."""

import asyncio
import subprocess
import sys
from contextlib import aclosing
from dataclasses import replace

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.integration.proxy import Proxy
from tests.integration.waiting import until
from tests.integration.wire_fakes import (
    MemoryCluster,
    MemoryCollector,
    MemoryNode,
    a_block,
    a_window,
    client,
    nothing_is_left,
    world,
)

from cvmprobe.errors import ConfigError, DeniedError, RefusedError, UnreachableError, UsageError, WireError
from cvmprobe.model.endpoint import Path
from cvmprobe.model.query import Missed, Selection, SnapshotFormat, TimeRange
from cvmprobe.model.run import RunState
from cvmprobe.model.window import Probe
from cvmprobe.v1 import probe_pb2
from cvmprobe.v1.probe_pb2_grpc import ProbeServiceStub
from cvmprobe.wire.channel import bearer, open_channel
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.identity import StaticTokens

__all__ = ["nothing_is_left", "world"]

EVERYTHING = Selection()
ALWAYS = TimeRange()


async def test_every_method_answers(world):
    cluster = MemoryCluster()
    async with world.serve(probe=cluster) as port, client(world, port) as probes:
        nodes = await probes.list_nodes()
        assert nodes == tuple(await cluster.list_nodes())
        assert len(nodes) == 2500  # three pages
        selection = Selection(nodes=("b",), probes=(Probe.DISK,), paths=(Path.HOST,), targets=("x",), run_id="r")
        assert [status.instance.source.node for status in await probes.list_probes(selection)] == ["b"]
        span = TimeRange(5, None)
        assert [w async for w in probes.query_windows(selection, span)] == [a_window(n) for n in range(5000)]
        assert cluster.asked == [(selection, span)]
        assert await probes.summarize(EVERYTHING, ALWAYS) == tuple(await cluster.summarize(EVERYTHING, ALWAYS))
        assert (await probes.start_run("quick", 0.5)).detail == "scale 0.5"
        assert (await probes.get_run("r1")).state is RunState.RUNNING
        assert [run.state async for run in probes.watch_run("r1")] == [RunState.RUNNING, RunState.DONE]
        assert (await probes.cancel_run("r1")).state is RunState.CANCELLED
        assert await probes.list_runs() == (await cluster.get_run("r1"),)
        exported = probes.export_snapshot("r1", ALWAYS, with_samples=True, snapshot_format=SnapshotFormat.ZIP)
        assert b"".join([chunk async for chunk in exported]) == b"PK\x03\x04r1"
        exported = probes.export_snapshot(None, ALWAYS, with_samples=False, snapshot_format=SnapshotFormat.ZIP)
        assert b"".join([chunk async for chunk in exported]) == b"PK\x03\x04all"


async def test_an_agent_serves_what_is_live_and_says_who_serves_the_rest(world):
    node = MemoryNode()
    async with world.serve(probe=node) as port, client(world, port) as probes:
        assert len(await probes.list_nodes()) == 2500
        assert len(await probes.list_probes(EVERYTHING)) == 2
        with pytest.raises(UsageError, match="ask the collector"):
            await probes.start_run("quick", 1.0)
        with pytest.raises(UsageError, match="ask the collector"):
            await anext(probes.query_windows(EVERYTHING, ALWAYS))
        with pytest.raises(UsageError, match="ask the collector"):
            await anext(probes.watch_run("r"))


async def test_a_service_that_is_not_served_is_not_there(world):
    async with world.serve(ingest=MemoryCollector()) as port, client(world, port) as probes:
        with pytest.raises(UsageError):
            await probes.list_nodes()


@pytest.mark.parametrize(
    ("suite", "scale", "reason"),
    [
        ("", 1.0, "suite: is empty"),
        ("quick", float("nan"), "scale: nan"),
        ("quick", 0.0, "scale: 0"),
        ("x", 1.0, "try"),
    ],
)
async def test_a_bad_request_is_refused_by_name(world, suite, scale, reason):
    async with world.serve(probe=MemoryCluster()) as port, client(world, port) as probes:
        with pytest.raises(UsageError, match=reason) as refused:
            await probes.start_run(suite, scale)
    assert not isinstance(refused.value, RefusedError)
    assert "\n" not in str(refused.value)


async def test_errors_of_the_handler_keep_their_kind(world):
    class Refusing(MemoryCluster):
        error: Exception

        async def get_run(self, run_id):
            raise self.error

    cluster = Refusing()
    async with world.serve(probe=cluster) as port, client(world, port) as probes:
        for error, kind in [
            (RefusedError("another run is alive"), RefusedError),
            (UsageError("no run r9"), UsageError),
            (DeniedError("not yours"), DeniedError),
            (WireError("broken"), WireError),
            (ZeroDivisionError("a bug"), WireError),
        ]:
            cluster.error = error
            with pytest.raises(kind, match=str(error)) as raised:
                await probes.get_run("r")
            assert type(raised.value) is kind


async def test_a_sum_that_no_number_holds_is_left_out_of_the_summaries(world):
    class Boundless(MemoryCluster):
        async def summarize(self, selection, span):
            (summary,) = await super().summarize(selection, span)
            return [replace(summary, count=2**64), summary]

    async with world.serve(probe=Boundless()) as port, client(world, port) as probes:
        assert [summary.count for summary in await probes.summarize(Selection(), TimeRange())] == [5]


async def test_a_page_token_of_somebody_else_is_refused(world):
    async with world.serve(probe=MemoryNode()) as port:
        async with open_channel(f"127.0.0.1:{port}", world.client_tls) as channel:
            stub = ProbeServiceStub(channel)
            request = probe_pb2.ListNodesRequest(page=probe_pb2.Page(token="²"))
            with pytest.raises(grpc.aio.AioRpcError, match="none of ours"):
                await stub.ListNodes(request, metadata=bearer("viewer"))
            request = probe_pb2.ListNodesRequest(page=probe_pb2.Page(token="9" * 30, size=7))
            answer = await stub.ListNodes(request, metadata=bearer("viewer"))
            assert (len(answer.nodes), answer.next_token) == (0, "")
            request = probe_pb2.ListNodesRequest(page=probe_pb2.Page(token="2490", size=7))
            answer = await stub.ListNodes(request, metadata=bearer("viewer"))
            assert (len(answer.nodes), answer.next_token) == (7, "2497")


async def test_a_watcher_gets_what_it_selected_and_leaves_no_trace(world):
    node = MemoryNode()
    async with world.serve(probe=node) as port, client(world, port) as probes:
        async with aclosing(probes.watch_windows(Selection(nodes=("b",)))) as windows:
            first = asyncio.ensure_future(anext(windows))
            await until(lambda: node.windows.watched)
            node.windows.publish(a_window(1, node="a"))
            node.windows.publish(a_window(2, node="b"))
            assert await first == a_window(2, node="b")
        await until(lambda: not node.windows.watched)
        async with aclosing(probes.watch_samples(EVERYTHING)) as blocks:
            first = asyncio.ensure_future(anext(blocks))
            await until(lambda: node.samples.watched)
            node.samples.publish(a_block(1, rows=1000))
            assert await first == a_block(1, rows=1000)
        await until(lambda: not node.samples.watched)


async def test_a_watcher_that_is_let_in_misses_nothing_from_then_on(world):
    node = MemoryNode()
    async with world.serve(probe=node) as port, client(world, port) as probes:
        async with probes.watching(EVERYTHING) as windows:
            assert await probes.list_probes(EVERYTHING)  # as long as any question takes
            node.windows.publish(a_window(1))
            assert await anext(windows) == a_window(1)
        await until(lambda: not node.windows.watched)


async def test_a_watcher_that_is_not_let_in_is_told_before_it_watches(world):
    async with world.serve(probe=MemoryNode()) as port:
        tls, address = world.client_tls, f"127.0.0.1:{port}"
        async with ProbeClient(address, tls, "agent-a", "the collector") as probes:
            with pytest.raises(DeniedError, match=r"^the collector refuses: agent a .* may not call"):
                async with probes.watching(EVERYTHING):
                    pytest.fail("it was let in")


async def test_a_stalled_watcher_loses_with_a_count_and_slows_nobody(world):
    node = MemoryNode(depth=16)
    big = {f"{number}{'x' * 90}": number for number in range(200)}  # about 20 kB each
    async with world.serve(probe=node) as port, Proxy(port) as proxy:
        async with client(world, proxy.port) as slow_client, client(world, port) as fast_client:
            slow, fast = slow_client.watch_windows(EVERYTHING), fast_client.watch_windows(EVERYTHING)
            first = asyncio.ensure_future(anext(slow)), asyncio.ensure_future(anext(fast))
            await until(lambda: len(node.windows._watchers) == 2)
            node.windows.publish(a_window(1))
            assert await asyncio.gather(*first) == [a_window(1), a_window(1)]
            proxy.stall()
            for number in range(2, 402):  # 8 MB: more than all buffers on the way hold
                node.windows.publish(a_window(number, **big))
                received = await asyncio.wait_for(anext(fast), 10)
                assert received.end_unix_ms == number
            proxy.resume()
            node.windows.publish(a_window(999))
            seen, missed = 1, 0
            async for item in slow:
                if isinstance(item, Missed):
                    missed += item.count
                else:
                    seen += 1
                    if item.end_unix_ms == 999:
                        break
            assert missed > 100
            assert seen + missed == 402
            await slow.aclose()
            await fast.aclose()


async def test_the_end_of_the_server_ends_its_watchers(world):
    node = MemoryNode()
    async with world.serve(probe=node) as port:
        probes = client(world, port)
        first = asyncio.ensure_future(anext(probes.watch_windows(EVERYTHING)))
        await until(lambda: node.windows.watched)
    assert not node.windows.watched
    with pytest.raises(UnreachableError):
        await first
    with pytest.raises(UnreachableError, match=rf"^127.0.0.1:{port} cannot be reached; is it running"):
        await probes.list_nodes()
    await probes.__aexit__(None, None, None)


async def test_an_oversized_request_is_refused(world):
    async with world.serve(probe=MemoryCluster()) as port, client(world, port) as probes:
        with pytest.raises(WireError, match="RESOURCE_EXHAUSTED"):
            await probes.list_probes(Selection(targets=("x" * (5 << 20),)))
        assert len(await probes.list_probes(EVERYTHING)) == 2


async def test_a_port_in_use_is_one_clear_line(world):
    async with world.serve(probe=MemoryNode()) as port:
        from cvmprobe.wire.serve import serve

        with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"):
            async with serve(f"127.0.0.1:{port}", lambda: world.server_tls, StaticTokens({})):
                pass


async def test_a_plain_client_finds_the_services_by_reflection(world):
    services = {"ingest": MemoryCollector(), "probe": MemoryCluster()}
    async with world.serve(**services, health=True, reflection=True) as port:
        async with open_channel(f"127.0.0.1:{port}", world.client_tls) as channel:
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(metadata=bearer("viewer"))
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="cvmprobe.v1.ProbeService"))
            await call.done_writing()
            names = {service.name for service in (await call.read()).list_services_response.service}
            assert names >= {"cvmprobe.v1.IngestService", "cvmprobe.v1.ProbeService", "grpc.health.v1.Health"}
            assert b"WatchWindows" in (await call.read()).file_descriptor_response.file_descriptor_proto[0]
            assert await call.code() == grpc.StatusCode.OK


def test_the_agents_side_imports_nothing_heavy():
    program = """
import sys
import cvmprobe.wire.serve, cvmprobe.wire.uplink, cvmprobe.wire.feed
heavy = {"cryptography", "duckdb", "kubernetes", "rich", "typer", "grpc_health.v1", "grpc_reflection.v1alpha"}
print(sorted(heavy & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"
