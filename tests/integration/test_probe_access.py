"""Who may call what: by token, by certificate, by TLS version; and that health alone is open to all."""

import asyncio
import ssl
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.integration.wire_fakes import (
    SERVER_NAME,
    TOKENS,
    MemoryCluster,
    MemoryCollector,
    MemoryNode,
    a_block,
    a_window,
    client,
    nothing_is_left,
    world,
)

from cvmprobe.errors import ConfigError, DeniedError, UnreachableError
from cvmprobe.model.query import Selection
from cvmprobe.v1 import probe_pb2
from cvmprobe.v1.probe_pb2_grpc import ProbeServiceStub
from cvmprobe.wire import serve
from cvmprobe.wire.authority import CertificateAuthority
from cvmprobe.wire.channel import bearer, open_channel
from cvmprobe.wire.identity import METHOD_ACCESS, OPEN_METHODS, Access, Principal, StaticTokens
from cvmprobe.wire.serve import serve_health
from cvmprobe.wire.tls import ClientTls, ServerTls

__all__ = ["nothing_is_left", "world"]


async def status_of(world, port, method, token, tls=None):
    """Call ``method`` with one empty message, whatever its shape, and give the status; OK once it answers."""
    async with open_channel(f"127.0.0.1:{port}", tls or world.client_tls) as channel:
        call = channel.unary_stream(method)(b"", metadata=bearer(token))
        try:
            answer = await asyncio.wait_for(call.read(), 20)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return await call.code() if answer is grpc.aio.EOF else grpc.StatusCode.OK


class Brief(MemoryCluster):
    """Its live streams end after one item."""

    async def watch_windows(self, selection):
        yield a_window(1)

    async def watch_samples(self, selection):
        yield a_block(1)


VIEW = {"viewer", "runner", "admin"}
EXPECTED = {
    "Attach": {"agent-a", "agent-b", "agent-lost"},  # it then depends on the Hello
    "StartRun": {"runner", "admin"},
    "CancelRun": {"runner", "admin"},
    **dict.fromkeys(
        [
            "ListNodes", "ListProbes", "WatchWindows", "WatchSamples", "QueryWindows", "Summarize", "GetRun",
            "WatchRun", "ListRuns", "ExportSnapshot", "ServerReflectionInfo",
        ],
        VIEW,
    ),
    "Check": {"", "guessed", *TOKENS},
    "Watch": {"", "guessed", *TOKENS},
    "Unknown": set(),
}  # fmt: skip


@pytest.mark.parametrize("method", [*METHOD_ACCESS, *sorted(OPEN_METHODS), "/cvmprobe.v1.ProbeService/Unknown"])
async def test_who_may_call_what(world, method):
    services = {"ingest": MemoryCollector(), "probe": Brief()}
    async with world.serve(**services, health=True, reflection=True) as port:
        found = {token: await status_of(world, port, method, token) for token in ("", "guessed", *TOKENS)}
    may = EXPECTED[method.rsplit("/", 1)[1]]
    for token, code in found.items():
        if token in may:
            assert code not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}, token
        elif token in ("", "guessed", "expired", "expired-agent"):
            assert code == grpc.StatusCode.UNAUTHENTICATED, token
        else:
            assert code == grpc.StatusCode.PERMISSION_DENIED, token


async def test_no_method_is_reached_without_the_right_ca_and_name(world, tmp_path):
    stranger = CertificateAuthority.load_or_create(tmp_path)
    async with world.serve(probe=MemoryCluster()) as port:
        for tls in (
            ClientTls(stranger.certificate_pem, SERVER_NAME),
            ClientTls(world.authority.certificate_pem, "somebody.else"),
        ):
            async with client(world, port, tls=tls) as probes:
                with pytest.raises(UnreachableError, match="certificate that is not trusted here"):
                    await probes.list_nodes()


async def test_an_expired_certificate_is_not_trusted(world, monkeypatch):
    monkeypatch.setattr("cvmprobe.wire.authority._LEAF_DAYS", -0.001)
    expired = ServerTls(*world.authority.issue([SERVER_NAME]))
    monkeypatch.setattr(world, "server_tls", expired)
    async with world.serve(probe=MemoryCluster()) as port, client(world, port) as probes:
        with pytest.raises(UnreachableError, match="certificate"):
            await probes.list_nodes()


async def handshake(world, port, **versions):
    context = ssl.create_default_context(cadata=world.authority.certificate_pem.decode())
    context.set_alpn_protocols(["h2"])
    for name, version in versions.items():
        setattr(context, name, version)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=SERVER_NAME)
    channel = writer.get_extra_info("ssl_object")
    found = channel.version(), channel.getpeercert()["serialNumber"]
    writer.transport.abort()
    return found


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_tls_is_1_3_by_choice_and_1_2_at_least(world):
    async with world.serve(probe=MemoryCluster()) as port:
        assert (await handshake(world, port))[0] == "TLSv1.3"
        assert (await handshake(world, port, maximum_version=ssl.TLSVersion.TLSv1_2))[0] == "TLSv1.2"
        with pytest.raises((ssl.SSLError, OSError)):
            await handshake(world, port, minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1)


async def test_plain_text_gets_nothing(world):
    async with world.serve(probe=MemoryCluster()) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = probe_pb2.ListNodesRequest()
            with pytest.raises(grpc.aio.AioRpcError):
                await ProbeServiceStub(channel).ListNodes(request, metadata=bearer("viewer"), timeout=10)


async def test_a_renewed_certificate_is_shown_from_the_next_handshake_on(world, monkeypatch):
    async with world.serve(probe=MemoryCluster()) as port:
        before = await handshake(world, port)
        monkeypatch.setattr(world, "server_tls", ServerTls(*world.authority.issue([SERVER_NAME])))
        after = await handshake(world, port)
        assert before[1] != after[1]


async def test_a_watch_ends_with_its_token(world):
    soon = time.time_ns() // 1_000_000 + 500
    tokens = StaticTokens({"short": Principal("viewer", Access.VIEWER, expires_unix_ms=soon)})
    async with world.serve(tokens, probe=MemoryNode()) as port, client(world, port, "short") as probes:
        with pytest.raises(DeniedError, match="the token has expired"):
            async with probes.watching(Selection()) as windows:
                await asyncio.wait_for(anext(windows), 10)


async def test_health_needs_no_token(world):
    async with world.serve(probe=MemoryCluster(), health=True) as port:
        async with open_channel(f"127.0.0.1:{port}", world.client_tls) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "cvmprobe.v1.ProbeService"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_alone_is_served_without_tls_to_a_prober_that_knows_none():
    async with serve_health("127.0.0.1:0") as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await ProbeServiceStub(channel).ListNodes(probe_pb2.ListNodesRequest())
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(ConfigError, match="cannot listen"):
            async with serve_health(f"127.0.0.1:{port}"):
                pass
    async with serve_health("") as nothing:
        assert nothing == 0


async def test_one_caller_cannot_take_all_calls(world, monkeypatch):
    monkeypatch.setattr("cvmprobe.wire.calls._CALLS_CAP", 3)
    async with (
        world.serve(probe=MemoryCluster()) as port,
        open_channel(f"127.0.0.1:{port}", world.client_tls) as channel,
    ):
        stub = ProbeServiceStub(channel)
        watches = [stub.WatchWindows(probe_pb2.WatchWindowsRequest(), metadata=bearer("viewer")) for _ in range(3)]
        for watch in watches:
            await watch.initial_metadata()
        with pytest.raises(grpc.aio.AioRpcError, match="has 3 calls open already; end some"):
            await stub.ListNodes(probe_pb2.ListNodesRequest(), metadata=bearer("viewer"))
        await stub.ListNodes(probe_pb2.ListNodesRequest(), metadata=bearer("runner"))
        watches[0].cancel()
        async with asyncio.timeout(20):
            while True:
                try:
                    await stub.ListNodes(probe_pb2.ListNodesRequest(), metadata=bearer("viewer"))
                except grpc.aio.AioRpcError:
                    continue
                break
        for watch in watches:
            watch.cancel()


async def test_a_connection_that_says_nothing_is_closed(world, monkeypatch):
    options = {**dict(serve._OPTIONS), "grpc.server_handshake_timeout_ms": 300}
    assert options.keys() == dict(serve._OPTIONS).keys()
    monkeypatch.setattr(serve, "_OPTIONS", tuple(options.items()))
    async with world.serve(probe=MemoryNode()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
