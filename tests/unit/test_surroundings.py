"""What a collector is told of its surroundings by files, and how it insists where an API server should tell it."""

import asyncio
import json

import pytest

from cvmprobe.collector import in_cluster
from cvmprobe.collector.surroundings import FileSurroundings
from cvmprobe.collector.ways import Peer
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.errors import ConfigError, DeniedError, UnreachableError
from cvmprobe.model.delivery import Hello
from cvmprobe.model.endpoint import Endpoint, PeerAddress, Role
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.wire.identity import Access, Principal

AGENT = Principal("n1", Access.AGENT, "n1")


def hello(node="n1", port=4711):
    environment = Environment((), TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ()))
    return Hello("1", Endpoint(node, Role.POD), "boot", "start", port, 0, environment)


@pytest.fixture
def files(tmp_path):
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"t": {"name": "n1", "access": "agent", "node": "n1"}}))
    tokens.chmod(0o600)
    return FileSurroundings(
        CollectorSettings(state_dir=tmp_path, tokens_file=tokens, hosts={"n1": "10.1.1.1"}, cluster="mine")
    )


async def test_files_name_the_cluster_the_callers_and_the_hosts(files):
    assert files.cluster == "mine"
    assert await files.authenticator.authenticate("t") == AGENT
    found = Peer(hello().endpoint, "boot", "start", PeerAddress("10.1.1.1", 4711))
    assert files.peer(hello(), AGENT) == found
    assert files.expected() == [Endpoint("n1", Role.POD)]
    assert not files.all_known
    assert not files.facts("n1")


def test_a_node_without_a_host_and_an_agent_without_a_responder_are_no_peers(files):
    assert files.peer(hello("n2"), AGENT) is None
    assert files.peer(hello(port=0), AGENT) is None


def test_without_a_tokens_file_nobody_could_come_in(tmp_path):
    with pytest.raises(ConfigError, match=r"collector\.tokens_file is not set"):
        FileSurroundings(CollectorSettings(state_dir=tmp_path))


async def test_what_must_be_known_is_asked_for_until_it_is_told(monkeypatch, caplog):
    monkeypatch.setattr(in_cluster, "_RETRY_S", 0.0)
    answers = [UnreachableError("away"), UnreachableError("away"), DeniedError("no right yet"), "uid"]

    async def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await in_cluster._insist(ask) == "uid"
    assert [record.getMessage() for record in caplog.records] == ["away; trying again", "no right yet; trying again"]


async def test_the_certificate_is_published_again_now_and_then(monkeypatch):
    monkeypatch.setattr(in_cluster, "_PUBLISH_S", 0.0)
    published = asyncio.Semaphore(0)

    async def publish():
        published.release()

    publishing = asyncio.create_task(in_cluster._publish(publish))
    async with asyncio.timeout(10):
        for _ in range(3):
            await published.acquire()
    publishing.cancel()
    await asyncio.wait({publishing})
