"""The way from a kubeconfig into a pod: many connections at once, and everything that can be in the way."""

import asyncio
import random
import socket
from contextlib import asynccontextmanager, suppress

import pytest
from tests.integration.api_server import CREDENTIAL, ApiServer
from tests.integration.waiting import until

from cvmprobe.cluster import tunnel
from cvmprobe.cluster.kubeconfig import Kubeconfig
from cvmprobe.cluster.tunnel import Tunnel
from cvmprobe.errors import DeniedError, UnreachableError, UsageError

POD, PORT = "cvmprobe-collector-0", 7410
WITHIN_S = 20


@pytest.fixture
async def api():
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def cluster(api, tmp_path):
    async with Kubeconfig(api.kubeconfig(tmp_path / "config"), None, "cvmprobe") as opened:
        yield opened


@asynccontextmanager
async def served(api, handler):
    """Serve ``handler`` as the pod's port."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    api.ports[POD, PORT] = server.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.close()


async def echo(reader, writer):
    while data := await reader.read(100_000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def dial(address):
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def all_that_comes(address, said=b""):
    reader, writer = await dial(address)
    writer.write(said)
    received = await asyncio.wait_for(reader.read(), WITHIN_S)
    writer.close()
    return received


async def test_a_token_is_asked_for_the_role_and_the_audience(api, cluster):
    assert await cluster.token("cvmprobe-viewer", "cvmprobe") == "cvmprobe-viewer-1"
    assert api.asked == [
        "POST /api/v1/namespaces/cvmprobe/serviceaccounts/cvmprobe-viewer/token",
        "audiences ['cvmprobe'] for 600 s",
    ]
    assert await cluster.ca_certificate() == b"pem"
    assert cluster.context == "here"


async def test_pods_are_found_by_component_and_node(api, cluster):
    api.pods |= {"agent-x": ("agent", "node1"), "agent-y": ("agent", "node2")}
    assert await cluster.pod("collector") == POD
    assert await cluster.pod("agent", "node2") == "agent-y"
    with pytest.raises(UnreachableError, match=r"no agent of cvmprobe runs on node node3 .*; it runs on node1, node2"):
        await cluster.pod("agent", "node3")
    with pytest.raises(UnreachableError, match="no peer of cvmprobe runs in namespace cvmprobe; apply deploy/base"):
        await cluster.pod("peer")


async def test_many_connections_at_once_carry_every_byte_both_ways(api, cluster):
    async with served(api, echo), Tunnel(cluster, POD, PORT) as opened:

        async def talk(seed):
            content = random.Random(seed).randbytes(300_000 + seed)
            reader, writer = await dial(opened.address)
            writer.write(content)
            assert await asyncio.wait_for(reader.readexactly(len(content)), WITHIN_S) == content
            writer.close()

        await asyncio.gather(*(talk(seed) for seed in range(24)))
        assert opened.trouble is None
    assert len([line for line in api.asked if "portforward?ports=7410" in line]) == 24
    assert set(api.credentials) == {f"Bearer {CREDENTIAL}"}


async def test_a_client_that_has_said_all_still_hears_the_answer(api, cluster):
    async def answer(reader, writer):
        assert await reader.readexactly(4) == b"said"
        await told.wait()
        writer.write(b"heard")
        await writer.drain()
        writer.close()

    told = asyncio.Event()
    async with served(api, answer), Tunnel(cluster, POD, PORT) as opened:
        reader, writer = await dial(opened.address)
        writer.write(b"said")
        writer.write_eof()
        told.set()
        assert await asyncio.wait_for(reader.read(), WITHIN_S) == b"heard"
        writer.close()
        assert opened.trouble is None


async def test_a_client_that_goes_away_leaves_nothing_open_in_the_pod(api, cluster, monkeypatch):
    monkeypatch.setattr(tunnel, "_PAUSE_S", 0.05)
    ended = asyncio.Event()

    async def wait_for_the_end(reader, writer):
        await reader.read()
        ended.set()
        writer.close()

    async with served(api, wait_for_the_end), Tunnel(cluster, POD, PORT) as opened:
        _, writer = await dial(opened.address)
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), WITHIN_S)


async def test_a_way_that_breaks_under_a_client_that_talks_is_told(api, cluster):
    async with served(api, echo), Tunnel(cluster, POD, PORT) as opened:
        _, writer = await dial(opened.address)
        with suppress(ConnectionError):
            while opened.trouble is None:
                writer.write(bytes(100_000))
                await writer.drain()
                api.cut()
        await until(lambda: opened.trouble is not None)
        assert "the pod, or the way to it, is gone" in str(opened.trouble)
        writer.close()


async def test_leaving_closes_what_is_open_without_a_word(api, cluster, caplog):
    async with served(api, echo):
        async with Tunnel(cluster, POD, PORT) as opened:
            reader, writer = await dial(opened.address)
            writer.write(b"x")
            assert await asyncio.wait_for(reader.read(1), WITHIN_S) == b"x"
            address = opened.address
        assert await asyncio.wait_for(reader.read(), WITHIN_S) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await dial(address)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_a_server_that_closes_and_a_way_that_breaks_end_the_connection(api, cluster):
    async def greet(reader, writer):
        writer.write(b"hello")
        await reader.read(1)
        writer.close()

    async with served(api, greet), Tunnel(cluster, POD, PORT) as opened:
        assert await all_that_comes(opened.address, b".") == b"hello"
        reader, writer = await dial(opened.address)
        assert await asyncio.wait_for(reader.readexactly(5), WITHIN_S) == b"hello"
        api.cut()
        assert await asyncio.wait_for(reader.read(), WITHIN_S) == b""
        writer.close()
        assert isinstance(opened.trouble, UnreachableError)
        assert str(opened.trouble) == (
            "port-forward to port 7410 of pod cvmprobe/cvmprobe-collector-0 ended: the pod, or the way to it, is gone"
        )
        assert await all_that_comes(opened.address, b".") == b"hello"  # the next connection finds a way again


@pytest.mark.parametrize(
    ("arrange", "kind", "text"),
    [
        (lambda api: api.answers.update(portforward=403), DeniedError, "answers 403; ask for the Role cvmprobe-viewer"),
        (
            lambda api: api.answers.update(portforward=401),
            DeniedError,
            "does not accept the credential of context here",
        ),
        (lambda api: api.answers.update(portforward=502), UnreachableError, "answers 502: Invalid response status"),
        (lambda api: api.pods.clear(), UnreachableError, "answers 404: the pod is gone"),
        (lambda api: None, UnreachableError, ": connection refused; is it still starting?"),
    ],
)
async def test_what_is_in_the_way_is_told_and_the_connection_closed(api, cluster, arrange, kind, text):
    arrange(api)
    async with Tunnel(cluster, POD, PORT) as opened:
        assert await all_that_comes(opened.address) == b""
        assert type(opened.trouble) is kind
        assert text in str(opened.trouble)
        assert f"pod cvmprobe/{POD}" in str(opened.trouble)


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (403, DeniedError, "answers 403; no token for you; ask for the Role cvmprobe-viewer or cvmprobe-runner"),
        (404, DeniedError, "answers 404; no token for you; is cvmprobe installed there"),
        (401, DeniedError, "answers 401; no token for you; it does not accept the credential of context here"),
        (503, UnreachableError, "the API server answers 503"),
    ],
)
async def test_a_refused_token_is_one_line(api, cluster, status, kind, text):
    api.answers["token"] = status
    with pytest.raises(kind) as refused:
        await cluster.token("cvmprobe-viewer", "cvmprobe")
    assert str(refused.value).startswith("a token of ServiceAccount cvmprobe/cvmprobe-viewer: the API server answers")
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_collector_that_has_not_started_is_told(api, cluster):
    api.ca = ""
    with pytest.raises(UnreachableError, match="ConfigMap cvmprobe/cvmprobe-ca is empty: the collector has not"):
        await cluster.ca_certificate()


async def test_an_api_server_that_is_away_is_told(api, tmp_path):
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        api.url = f"http://127.0.0.1:{place.getsockname()[1]}"
        async with Kubeconfig(api.kubeconfig(tmp_path / "away"), None, "cvmprobe") as away:
            with pytest.raises(UnreachableError, match=rf"the API server {api.url} of context here does not answer"):
                await away.ca_certificate()
            async with Tunnel(away, POD, PORT) as opened:
                assert await all_that_comes(opened.address) == b""
            assert "does not answer" in str(opened.trouble)


def plugin(*command):
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command[0], "args": [*command[1:]]}}


async def test_a_credential_plugin_is_asked(api, tmp_path):
    said = (
        '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
        f'"status": {{"token": "{CREDENTIAL}"}}}}'
    )
    async with Kubeconfig(api.kubeconfig(tmp_path / "c", plugin("echo", said)), None, "cvmprobe") as cluster:
        assert await cluster.ca_certificate() == b"pem"


@pytest.mark.parametrize(
    ("write", "context", "text"),
    [
        (lambda path, api: None, None, "config cannot be used: Config not found"),
        (lambda path, api: path.write_text("{"), None, "cannot be used: while parsing"),
        (lambda path, api: path.write_text("[]"), None, "cannot be used"),
        (lambda path, api: path.write_text("a: b"), None, "cannot be used"),
        (lambda path, api: api.kubeconfig(path), "nowhere", "Expected object with name nowhere"),
        (lambda path, api: api.kubeconfig(path, plugin("false")), None, "exec: process returned 1"),
        (lambda path, api: api.kubeconfig(path, plugin("/is/not/there")), None, "No such file or directory"),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_named(api, tmp_path, capsys, caplog, write, context, text):
    path = tmp_path / "config"
    write(path, api)
    with pytest.raises(UsageError) as refused:
        async with Kubeconfig(path, context, "cvmprobe"):
            pass
    assert str(refused.value).startswith(str(path))
    assert text in str(refused.value)
    assert str(refused.value).endswith("name another with KUBECONFIG, --kubeconfig or --context")
    assert capsys.readouterr().err == ""
    assert caplog.records == []
