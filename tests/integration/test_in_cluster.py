"""A collector in Kubernetes: who may come in, where agents are reached, and what stays true while the API is away."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.integration.cluster_server import CLUSTER, ClusterServer, node, pod, token
from tests.integration.collector_process import Agent, Collector, ending
from tests.integration.waiting import until

from cvmprobe.errors import DeniedError, UnreachableError
from cvmprobe.model.endpoint import Path, PeerAddress, Role, VolumeTarget
from cvmprobe.model.query import Attachment, Selection, SnapshotFormat, TimeRange
from cvmprobe.store.snapshot import read_snapshot
from cvmprobe.wire.client import ProbeClient

ANYTHING = Selection()
LIGHT = "light_operations_per_s = 200\nlight_bits_per_s = 1_000_000\n"


class InCluster(Collector):
    """A collector beside a fake API server."""

    def __init__(self, directory, server):
        super().__init__(directory, LIGHT)
        self.server = server
        self.environment = {"KUBECONFIG": str(server.kubeconfig(directory / "kubeconfig"))}

    def identity(self):
        return 'identity = "kubernetes"\nnamespace = "cvmprobe"\nnode = "n1"\nservice_host = "cvmprobe-peer"\n'

    def let_in(self, account, **bound):
        """Make a token that the API server knows."""
        text, status = token(account, **bound)
        self.server.tokens[text] = status
        return text

    def agent(self, uid, node_name, role=Role.POD, start="start-1", **changes):
        """Attach as the pod ``uid`` would."""
        component = "agent" if role is Role.POD else "peer"
        bound = {"account": f"cvmprobe-{component}", "pod_uid": uid, "node_name": node_name} | changes
        return Agent(self, node_name, start, role=role, token=self.let_in(**bound))

    def person(self, account):
        return ProbeClient(self.address, self.tls, self.let_in(account))


@pytest.fixture
async def cluster(tmp_path):
    """Two nodes with an agent and a peer each, none attached."""
    async with ClusterServer() as server:
        for number in (1, 2):
            server.put("nodes", node(f"n{number}", **{"topology.kubernetes.io/zone": f"z{number}"}))
            server.put("pods", pod(f"a{number}", "agent", f"n{number}", f"10.0.{number}.1"))
            server.put("pods", pod(f"p{number}", "peer", f"n{number}", f"10.0.{number}.2"))
        async with ending(InCluster(tmp_path, server)) as child:
            await child.start()
            yield child


async def statuses(client):
    return {str(status.endpoint): status for status in await client.list_nodes()}


@asynccontextmanager
async def all_four(cluster):
    agents = {
        uid: cluster.agent(uid, f"n{uid[1]}", Role.POD if uid[0] == "a" else Role.PEER)
        for uid in ("a1", "a2", "p1", "p2")
    }
    for agent in agents.values():
        await agent.attached()
    yield agents


async def test_every_way_is_planned_at_the_address_it_is_reached_at(cluster):
    async with all_four(cluster) as agents:
        first = agents["a1"]
        await until(lambda: first.plans and len(first.plans[-1].probes) == 4)
        planned = {(str(probe.target), probe.target.path): probe.peer for probe in first.plans[-1].probes}
        assert planned == {
            ("n1/pod", Path.LOOPBACK): PeerAddress("127.0.0.1", 4711),
            ("n1/peer", Path.INTRA_NODE): PeerAddress("10.0.1.2", 4711),
            ("n2/pod", Path.INTER_NODE): PeerAddress("10.0.2.1", 4711),
            ("n2/peer", Path.SERVICE): PeerAddress("cvmprobe-peer", 4711, 40),
        }
        peer = agents["p2"]
        await until(lambda: peer.plans and len(peer.plans[-1].admissions) == 2)
        assert not peer.plans[-1].probes


async def test_what_the_api_server_tells_is_in_lists_snapshots_and_the_config_map(cluster, tmp_path):
    cluster.server.put("pods", pod("a3", "agent", "n3", None))
    await until(lambda: cluster.server.config_map)
    assert cluster.server.config_map["ca.crt"].encode() == cluster.tls.ca_pem
    async with cluster.person("cvmprobe-viewer") as viewer:
        found = await statuses(viewer)
        assert set(found) == {"n1/peer", "n1/pod", "n2/peer", "n2/pod", "n3/pod"}
        assert {status.attachment for status in found.values()} == {Attachment.PENDING}
        agent = cluster.agent("a1", "n1")
        agent.add(agent.window(1))
        await until(lambda: agent.acked == 1)
        status = (await statuses(viewer))["n1/pod"]
        assert status.attachment is Attachment.ATTACHED
        facts = {fact.name: (fact.value, fact.source) for fact in status.environment.facts}
        assert facts["zone"] == ("z1", "kubernetes node object")
        assert facts["instance_type"] == (None, "kubernetes node object")
        assert facts["container_runtime"] == ("containerd://2", "kubernetes node object")
        assert facts["hosts_collector"] == ("true", "the collector's pod")
        chunks = viewer.export_snapshot(None, TimeRange(), with_samples=False, snapshot_format=SnapshotFormat.ZIP)
        (tmp_path / "s.zip").write_bytes(b"".join([chunk async for chunk in chunks]))
    ((stream, hello),) = read_snapshot(tmp_path / "s.zip").manifest.nodes.items()
    assert (stream.cluster, hello.environment.value("zone")) == (CLUSTER, "z1")


async def test_a_pod_without_an_address_is_attached_and_probed_once_it_has_one(cluster):
    cluster.server.put("pods", pod("a2", "agent", "n2", None))
    first, second = cluster.agent("a1", "n1"), cluster.agent("a2", "n2")
    await first.attached()
    await second.attached()
    await until(lambda: first.plans)
    heard = first.heartbeats
    await until(lambda: first.heartbeats > heard + 1)  # plans are looked at with every heartbeat
    assert [len(plan.probes) for plan in first.plans] == [1]
    cluster.server.put("pods", pod("a2", "agent", "n2", "10.0.2.9"))
    await until(lambda: PeerAddress("10.0.2.9", 4711) in {probe.peer for probe in first.plans[-1].probes})


async def test_an_endpoint_whose_pod_is_gone_disappears_with_its_stream(cluster):
    first, second = cluster.agent("a1", "n1"), cluster.agent("a2", "n2")
    for agent in (first, second):
        window = agent.window(1)
        agent.add(replace(window, instance=replace(window.instance, target=VolumeTarget("scratch"))))
        await until(lambda agent=agent: agent.acked == 1)
    async with cluster.person("cvmprobe-viewer") as viewer:
        assert len(await viewer.list_probes(ANYTHING)) == 2
        cluster.server.delete("pods", "a2")
        await until(lambda: first.plans[-1].probes[1:] == ())
        assert (await statuses(viewer))["n2/pod"].attachment is Attachment.ATTACHED
        await second.bye()
        async with asyncio.timeout(20):
            while "n2/pod" in await statuses(viewer):
                await asyncio.sleep(0.01)
        assert [status.instance.source.node for status in await viewer.list_probes(ANYTHING)] == ["n1"]
        windows = [window async for window in viewer.query_windows(ANYTHING, TimeRange())]
        assert {window.instance.source.node for window in windows} == {"n1", "n2"}


async def test_a_new_pod_attaches_while_the_stream_of_the_old_one_is_half_open(cluster):
    old = cluster.agent("a1", "n1")
    await old.attached()
    cluster.server.delete("pods", "a1")
    cluster.server.put("pods", pod("a9", "agent", "n1", "10.0.1.9"))
    new = cluster.agent("a9", "n1", start="start-2")
    other = cluster.agent("a2", "n2")
    await new.attached()
    await other.attached()
    assert old.uplink.attached
    await until(lambda: other.plans and len(other.plans[-1].probes) == 2)
    assert PeerAddress("10.0.1.9", 4711) in {probe.peer for probe in other.plans[-1].probes}
    await until(lambda: new.plans and len(new.plans[-1].probes) == 2)
    async with cluster.person("cvmprobe-viewer") as viewer:
        status = (await statuses(viewer))["n1/pod"]
        assert (status.start_id, status.attachment) == ("start-2", Attachment.ATTACHED)
        await old.vanish()
        status = (await statuses(viewer))["n1/pod"]
        assert (status.start_id, status.attachment) == ("start-2", Attachment.ATTACHED)


REFUSALS = [
    ({"audience": "api"}, {}, "the token is unknown or expired"),
    ({"namespace": "other"}, {}, "the token is unknown or expired"),
    ({"left_s": -1}, {}, "the token is unknown or expired"),
    ({"account": "default"}, {}, "ServiceAccount default is none that may come in"),
    ({"account": "cvmprobe-collector"}, {}, "ServiceAccount cvmprobe-collector is none that may come in"),
    ({"account": "cvmprobe-admin"}, {}, "may not call /cvmprobe.v1.IngestService/Attach"),
    ({"pod_uid": None}, {}, "is bound to no pod"),
    ({"pod_uid": "nobody"}, {}, "pod nobody of ServiceAccount cvmprobe-agent is not to be seen yet"),
    ({"pod_uid": "p1"}, {}, "its token is of cvmprobe-agent"),
    ({"account": "cvmprobe-peer"}, {}, "its token is of cvmprobe-peer"),
    ({"node_name": "n2"}, {}, "runs on n1, its token says n2"),
    ({}, {"node": "n2"}, "may speak for node n1, not for n2/pod"),
    ({}, {"role": Role.PEER}, "may be pod on n1, not peer"),
]
"""What differs from the good token of pod a1, what differs in the Hello, and what the agent is told."""


async def test_who_is_no_agent_of_that_node_and_role_is_told_why(cluster):
    cluster.server.put("pods", pod("x", "peer", "n1", account="cvmprobe-agent"))
    refused = []
    for bound, claim, reason in [*REFUSALS, ({"pod_uid": "x"}, {}, "is a peer of cvmprobe-agent")]:
        proof = {"account": "cvmprobe-agent", "pod_uid": "a1", "node_name": "n1"} | bound
        token = cluster.let_in(**proof)
        agent = Agent(cluster, claim.get("node", "n1"), role=claim.get("role", Role.POD), token=token)
        refused.append((agent, reason))
    for agent, reason in refused:
        await until(lambda agent=agent, reason=reason: reason in (agent.uplink.trouble or ""))
        assert not agent.welcomes


async def test_people_may_do_what_their_service_account_is_for(cluster):
    for nonsense in ("", "no-dots", "a.b.c", "a.e30.c"):
        async with ProbeClient(cluster.address, cluster.tls, nonsense) as stranger:
            with pytest.raises(DeniedError):
                await stranger.list_nodes()
    assert cluster.server.asked["review"] == 0  # what cannot be a token is not asked about
    async with cluster.person("cvmprobe-viewer") as viewer:
        assert await viewer.list_nodes()
        with pytest.raises(DeniedError, match=r"cvmprobe-viewer \(viewer\) may not call .*StartRun"):
            await viewer.start_run("quick", 1.0)
    async with cluster.person("cvmprobe-runner") as runner:
        with pytest.raises(Exception, match="finds nothing to measure"):
            await runner.start_run("quick", 1.0)
    async with cluster.person("cvmprobe-agent") as agent:
        with pytest.raises(DeniedError, match="bound to no pod"):
            await agent.list_nodes()


async def test_a_replaced_token_is_taken_up_without_a_gap_and_disturbs_nobody(cluster, tmp_path):
    first, second = cluster.agent("a1", "n1"), cluster.agent("a2", "n2")
    await until(lambda: second.plans and len(second.plans[-1].probes) == 2)
    first.add(first.window(1))
    await until(lambda: first.acked == 1)
    plans = len(second.plans)
    first.token = cluster.let_in("cvmprobe-agent", pod_uid="a1", node_name="n1")
    await until(lambda: len(first.welcomes) == 2)
    first.add(first.window(2))
    await until(lambda: first.acked == 2)
    heard = second.heartbeats
    await until(lambda: second.heartbeats > heard + 1)  # plans are looked at with every heartbeat
    assert len(second.plans) == plans
    assert first.plans[-1].probes == first.plans[-2].probes
    async with cluster.person("cvmprobe-viewer") as viewer:
        chunks = viewer.export_snapshot(None, TimeRange(), with_samples=False, snapshot_format=SnapshotFormat.ZIP)
        (tmp_path / "s.zip").write_bytes(b"".join([chunk async for chunk in chunks]))
    snapshot = read_snapshot(tmp_path / "s.zip")
    assert [window.end_unix_ms for window in snapshot.windows()] == [first.window(n).end_unix_ms for n in (1, 2)]
    assert not snapshot.manifest.gaps


async def test_while_the_api_server_is_away_live_streams_go_on_and_new_ones_wait(cluster):
    live = cluster.agent("a1", "n1")
    await live.attached()
    await cluster.server.away()
    waiting = cluster.agent("a2", "n2")
    reason = "cannot do that now: TokenReview: the API server does not answer"
    await until(lambda: reason in (waiting.uplink.trouble or ""))
    async with cluster.person("cvmprobe-viewer") as viewer:
        with pytest.raises(UnreachableError, match=reason):
            await viewer.list_nodes()
    live.add(live.window(1))
    await until(lambda: live.acked == 1)
    assert len(live.welcomes) == 1
    await cluster.server.back()
    await waiting.attached()
    await until(lambda: live.plans[-1].probes[1:])


async def test_nobody_is_let_in_while_the_api_server_refuses_to_review(cluster):
    cluster.server.review_status = 403
    agent = cluster.agent("a1", "n1")
    for status in (403, 500):
        cluster.server.review_status = status
        await until(lambda status=status: f"the API server answers {status}" in (agent.uplink.trouble or ""))
    cluster.server.review_status = 200
    await agent.attached()
    unclaimed = cluster.let_in("cvmprobe-agent", pod_uid="a2")  # as before Kubernetes 1.30: the pod's own node counts
    await Agent(cluster, "n2", token=unclaimed).attached()


async def test_a_collector_that_starts_before_its_api_server_waits_for_it(tmp_path):
    async with ClusterServer() as server:
        server.put("pods", pod("a1"))
        async with ending(InCluster(tmp_path, server)) as child:
            await server.away()
            starting = asyncio.create_task(child.start())
            await until(lambda: child.log.exists() and "namespace kube-system" in child.log.read_text())
            assert not starting.done()
            await server.back()
            await starting
            await child.agent("a1", "n1").attached()


async def test_a_collector_that_waits_for_its_api_server_ends_when_told(tmp_path):
    async with ClusterServer() as server, ending(InCluster(tmp_path, server)) as child:
        await server.away()
        starting = asyncio.create_task(child.start())
        await until(lambda: child.log.exists() and "namespace kube-system" in child.log.read_text())
        assert await child.end() == 0
        with pytest.raises(AssertionError):
            await starting
