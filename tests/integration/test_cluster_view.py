"""The collector's picture of its cluster stays true whatever the API server does."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from tests.integration.cluster_server import NAMESPACE, ClusterServer, node, pod
from tests.integration.waiting import until

from cvmprobe.cluster import mirror
from cvmprobe.cluster.api import api_server
from cvmprobe.cluster.discovery import ClusterView
from cvmprobe.errors import ConfigError
from cvmprobe.model.endpoint import Endpoint, Role


@pytest.fixture(autouse=True)
def _outside(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
async def server(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "_BACKOFF_S", (0.02, 0.1))
    async with ClusterServer() as running:
        running.put("pods", pod("a"))
        running.put("nodes", node("n1"))
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "kubeconfig")))
        yield running


@asynccontextmanager
async def viewing():
    changed = asyncio.Event()
    async with api_server() as api, ClusterView(api, NAMESPACE, changed.set) as view:
        await until(lambda: view.synced)
        yield view


def names(view):
    return {found.uid for found in view.pods()}


async def test_what_is_there_and_what_comes_changes_and_goes_is_seen(server):
    server.put("pods", pod("b", "peer", node=None, ip=None))
    async with viewing() as view:
        assert {(found.uid, found.endpoint, found.address) for found in view.pods()} == {
            ("a", Endpoint("n1", Role.POD), "10.0.0.1"),
            ("b", None, None),
        }
        server.put("pods", pod("b", "peer", node="n2", ip=None))
        await until(lambda: view.pod("b").endpoint == Endpoint("n2", Role.PEER))
        assert view.pod("b").address is None
        server.put("pods", pod("b", "peer", node="n2", ip="fd00::2", going=True))
        await until(lambda: view.pod("b").address == "fd00::2")
        assert view.pod("b").terminating
        server.delete("pods", "b")
        await until(lambda: view.pod("b") is None)
        assert server.asked["list"] == 2


async def test_pods_that_have_ended_or_do_not_measure_are_not_seen(server):
    for one in (pod("c", "collector"), pod("f", phase="Failed"), pod("s", phase="Succeeded")):
        server.put("pods", one)
    async with viewing() as view:
        assert names(view) == {"a"}


async def test_a_node_is_what_its_object_says_and_what_it_does_not_say_is_unknown(server):
    labels = {"topology.kubernetes.io/zone": "z", "node.kubernetes.io/instance-type": "DC4as_v5"}
    server.put("nodes", node("n2", **labels))
    async with viewing() as view:
        plain, labelled = view.node("n1"), view.node("n2")
        assert (plain.zone, plain.instance_type, plain.provider_id) == (None, None, None)
        assert (labelled.zone, labelled.instance_type, labelled.runtime) == ("z", "DC4as_v5", "containerd://2")
        assert view.node("n3") is None


async def test_a_watch_that_ends_in_order_goes_on_where_it_was(server, monkeypatch):
    monkeypatch.setattr(mirror, "_WATCH_S", 1)
    async with viewing() as view:
        await until(lambda: server.asked["watch"] >= 4)
        server.put("pods", pod("b"))
        await until(lambda: "b" in names(view))
        assert server.asked["list"] == 2


async def test_bookmarks_carry_a_quiet_watch_over_a_compaction(server, monkeypatch):
    monkeypatch.setattr(mirror, "_WATCH_S", 1)
    async with viewing() as view:
        await until(lambda: server.watched == 2)
        server.bookmark()
        await until(lambda: server.asked["watch"] >= 4)
        server.compacted = server.version - 1  # not after the bookmarks, but after the lists
        server.put("pods", pod("b"))
        await until(lambda: "b" in names(view))
        assert server.asked["list"] == 2


async def test_a_watch_from_too_long_ago_lists_again_at_once(server, monkeypatch):
    monkeypatch.setattr(mirror, "_WATCH_S", 1)
    monkeypatch.setattr(mirror, "_BACKOFF_S", (600.0, 600.0))
    async with viewing() as view:
        await until(lambda: server.watched == 2)
        server.deaf = True
        server.put("pods", pod("b"))
        server.delete("pods", "a")
        server.compact()
        server.deaf = False
        await until(lambda: names(view) == {"b"})
        assert server.asked["list"] > 2


async def test_too_many_requests_are_asked_again_when_the_server_says(server, monkeypatch):
    slept = []
    sleep = asyncio.sleep

    async def noted(seconds):
        slept.append(seconds)
        await sleep(min(seconds, 0.01))

    server.refusals.extend([(429, {"Retry-After": "7"}), (429, {"Retry-After": "7"})])
    monkeypatch.setattr(mirror.asyncio, "sleep", noted)
    async with viewing() as view:
        assert names(view) == {"a"}
    assert slept.count(7.0) == 2


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_a_refusal_of_any_kind_is_asked_again_and_said(server, status, caplog):
    server.refusals.extend([(status, {})] * 5)
    async with viewing() as view:
        assert names(view) == {"a"}
    assert f"the API server answers {status}: no" in caplog.text


async def test_a_connection_that_breaks_costs_nothing_that_happened_meanwhile(server):
    async with viewing() as view:
        for round_ in range(5):
            await until(lambda: server.watched == 2)
            server.cut()
            server.put("pods", pod(f"b{round_}"))
            server.delete("pods", f"b{round_ - 1}" if round_ else "a")
            await until(lambda round_=round_: names(view) == {f"b{round_}"})


async def test_a_half_closed_watch_is_not_trusted_for_long(server, monkeypatch):
    monkeypatch.setattr(mirror, "_WATCH_S", 1)
    monkeypatch.setattr(mirror, "_GRACE_S", 0.3)
    server.deaf = True
    async with viewing() as view:
        await until(lambda: server.watched == 2)
        server.put("pods", pod("b"))
        await until(lambda: "b" in names(view))


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "ADDED", "object": {"metadata": {"na\n',
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {}}\n',
        b'{"type": "BOOKMARK", "object": {}}\n',
        b'{"type": "ERROR", "object": {"code": 500, "message": "etcd"}}\n',
        b"[]\n",
        b"\xff\xfe\n",
        b"\n",
    ],
)
async def test_a_line_that_is_no_event_makes_it_list_again(server, line):
    async with viewing() as view:
        await until(lambda: server.watched == 2)
        lists = server.asked["list"]
        server.say(line)
        await until(lambda: server.asked["list"] > lists)
        server.put("pods", pod("b"))
        await until(lambda: names(view) == {"a", "b"})


async def test_while_the_server_is_away_the_last_picture_stays(server):
    async with viewing() as view:
        await until(lambda: server.watched == 2)
        await server.away()
        server.put("pods", pod("b"))
        assert names(view) == {"a"}
        assert view.synced
        await server.back()
        await until(lambda: names(view) == {"a", "b"})


async def test_a_large_object_is_an_object_like_any_other(server):
    async with viewing() as view:
        await until(lambda: server.watched == 2)
        big = pod("big")
        big["metadata"]["annotations"] = {"a": "x" * 1_000_000}
        server.put("pods", big)
        await until(lambda: "big" in names(view))
        assert server.asked["list"] == 2


async def test_leaving_ends_the_watches(server):
    async with viewing():
        await until(lambda: server.watched == 2)
    await until(lambda: not server.watched)


async def test_without_a_way_to_an_api_server_the_settings_are_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no way to the API server"):
        async with api_server():
            pass
