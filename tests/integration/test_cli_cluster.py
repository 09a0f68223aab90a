"""The command line from a laptop: verbs through a kubeconfig and a tunnel, and what they make of it when it breaks."""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.api_server import ApiServer
from tests.integration.waiting import until
from tests.integration.wire_fakes import MemoryCluster, MemoryNode, World, a_window

import cvmprobe
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.model.run import RunState
from cvmprobe.wire.identity import Access, Principal
from cvmprobe.wire.tls import ServerTls

SOURCE = str(Path(cvmprobe.__file__).parents[1])
POD = "cvmprobe-collector-0"
WITHIN_S = 60


class Tokens:
    """Lets in whoever shows a token as the API server makes them; ``expire_s`` is how long the next ones live."""

    def __init__(self):
        self.expire_s = 600.0
        self.seen = {}

    async def authenticate(self, token):
        _, _, rest = token.partition("cvmprobe-")
        access, _, number = rest.partition("-")
        if not number:
            return None
        expires = self.seen.setdefault(token, int((time.time() + self.expire_s) * 1000))
        principal = Principal(f"person with {token}", Access(access), expires_unix_ms=expires)
        return None if principal.expired() else principal


class Kept(MemoryCluster):
    """Keeps what it publishes, and lets a test hold a run."""

    def __init__(self):
        super().__init__(depth=1024)
        self.stored = []
        self.run = self._run()
        self.changed = asyncio.Event()
        self.cancelled = []
        self.cancel_hangs = False

    def cut(self, number):
        self.stored.append(a_window(number))
        self.windows.publish(self.stored[-1])

    async def list_nodes(self):
        return (await super().list_nodes())[:2]

    async def query_windows(self, selection, span):
        self.asked.append(span)
        for window in self.stored:
            if window.end_unix_ms >= (span.start_unix_ms or 0):
                yield window

    async def start_run(self, suite, scale, repeats=None):
        self.asked.append((suite, scale))
        return self.run

    def go_on(self, **changes):
        self.run = replace(self.run, **changes)
        self.changed.set()

    async def watch_run(self, run_id):
        while True:
            self.changed.clear()
            yield self.run
            if self.run.state.ended:
                return
            await self.changed.wait()

    async def cancel_run(self, run_id):
        self.cancelled.append(run_id)
        if self.cancel_hangs:
            await asyncio.Event().wait()
        self.go_on(state=RunState.CANCELLED)
        return self.run


class Laptop:
    """A home with a kubeconfig, and the verbs typed in it."""

    def __init__(self, directory, api):
        self.directory = directory
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CVMPROBE_", "KUBE"))},
            "PYTHONPATH": SOURCE,
            "XDG_RUNTIME_DIR": str(directory),
            "HOME": str(directory),
            "KUBECONFIG": str(api.kubeconfig(directory / "config")),
        }
        self.typed = []

    async def type(self, line):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-m", "cvmprobe.cli", *line.split(),
            cwd=self.directory, env=self.environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.typed.append(process)
        return process

    async def call(self, line):
        process = await self.type(line)
        out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
        return process.returncode, out.decode(), err.decode()


async def line_of(stream, text):
    """Read lines until one holds ``text``, and return it."""
    async with asyncio.timeout(WITHIN_S):
        while line := (await stream.readline()).decode():
            if text in line:
                return line
    pytest.fail(f"no line holds {text!r}")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def api(world):
    async with ApiServer() as server:
        server.ca = world.authority.certificate_pem.decode()
        yield server


@pytest.fixture
async def laptop(tmp_path, api):
    here = Laptop(tmp_path, api)
    yield here
    for process in here.typed:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def tokens():
    return Tokens()


@asynccontextmanager
async def serving(world, api, tokens, handler, name="cvmprobe-collector", pod=POD, port=7410):
    """Serve ``handler`` in a pod, under a certificate for ``name``."""
    served = World.__new__(World)
    served.server_tls = ServerTls(*world.authority.issue([name]))
    async with served.serve(tokens, probe=handler) as its_port:
        api.ports[pod, port] = its_port
        yield its_port


@pytest.fixture
async def collector(world, api, tokens):
    kept = Kept()
    async with serving(world, api, tokens, kept):
        yield kept


async def test_a_verb_asks_the_cluster_and_says_so_in_one_line(collector, laptop, api):
    code, out, err = await laptop.call("get nodes -o json")
    assert code == 0, err
    assert [node["endpoint"] for node in json.loads(out)] == ["node-0000/pod", "node-0001/pod"]
    assert err == "asking the collector in context here, namespace cvmprobe\n"
    assert "POST /api/v1/namespaces/cvmprobe/serviceaccounts/cvmprobe-viewer/token" in api.asked
    assert "audiences ['cvmprobe'] for 600 s" in api.asked


async def test_the_credential_of_the_person_never_leaves_for_a_pod(collector, laptop, tokens):
    assert (await laptop.call("get runs"))[0] == 0
    assert list(tokens.seen) == ["cvmprobe-viewer-1"]


async def test_a_run_shows_its_cost_first_and_ends_in_a_table_and_a_snapshot(collector, laptop, api):
    process = await laptop.type("run quick --scale 0.5 -f out.zip")
    first, second = [(await process.stderr.readline()).decode() for _ in range(2)]
    assert first == "asking the collector in context here, namespace cvmprobe\n"
    assert second.startswith("run r1 of suite quick: 4 measurements, at most 1 s")
    collector.go_on(state=RunState.DONE)
    out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 0, err
    assert (laptop.directory / "out.zip").read_bytes() == b"PK\x03\x04r1"
    assert out.startswith(b"disk")
    assert b"wrote out.zip" in err
    assert ("quick", 0.5) in collector.asked
    assert api.tokens == 1
    assert any("serviceaccounts/cvmprobe-runner/token" in line for line in api.asked)


async def test_a_run_is_watched_on_when_the_tunnel_breaks(collector, laptop, api):
    process = await laptop.type("run quick -f out.zip")
    await line_of(process.stderr, "run r1 of suite")
    await until(lambda: api.open)
    api.pods.clear()
    api.cut()
    assert "trying again" in await line_of(process.stderr, "port-forward to port 7410 of pod")
    api.pods[POD] = ("collector", "node1")
    collector.go_on(state=RunState.PARTIAL, detail="a disk was full")
    _, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 3, err
    assert (laptop.directory / "out.zip").read_bytes() == b"PK\x03\x04r1"
    assert len([one for one in collector.asked if one == ("quick", 1.0)]) == 1  # never started twice
    assert collector.cancelled == []
    assert api.tokens > 1


async def test_ctrl_c_has_the_run_cancelled(collector, laptop):
    process = await laptop.type("run quick")
    await line_of(process.stderr, "run r1 of suite")
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert (process.returncode, out) == (130, b"")
    assert collector.cancelled == ["r1"]
    assert err.decode().splitlines() == [
        "cancelling run r1; Ctrl-C again leaves at once",
        "run r1 is cancelled; what it measured: cvmprobe get windows --run r1",
    ]
    assert [path.name for path in laptop.directory.iterdir()] == ["config"]


async def test_a_second_ctrl_c_leaves(collector, laptop):
    collector.cancel_hangs = True
    process = await laptop.type("run quick")
    await line_of(process.stderr, "run r1 of suite")
    process.send_signal(signal.SIGINT)
    await until(lambda: collector.cancelled)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"is cancelled" not in err


async def shown(process, count):
    """Give the ends of the next windows a watch prints."""
    lines = [await asyncio.wait_for(process.stdout.readline(), WITHIN_S) for _ in range(count)]
    return [json.loads(line)["end_unix_ms"] for line in lines]


async def test_a_watch_goes_on_over_a_break_and_shows_each_window_once(collector, laptop, api):
    process = await laptop.type("watch -o json")
    await until(lambda: collector.windows.watched, WITHIN_S)
    for number in (1, 2, 3):
        collector.cut(number)
    assert await shown(process, 3) == [1, 2, 3]
    api.answers["portforward"] = 503
    api.cut()
    await line_of(process.stderr, "trying again")
    for number in (4, 5):
        collector.cut(number)
    del api.answers["portforward"]
    said = await line_of(process.stderr, "watching again")
    assert said == "watching again; nothing is missing: 2 windows of the meantime come from the store\n"
    collector.cut(6)
    assert await shown(process, 3) == [4, 5, 6]
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), WITHIN_S) == 130


async def test_a_watch_outlives_its_token(collector, laptop, tokens, api):
    tokens.expire_s = 1.5
    process = await laptop.type("watch -o json")
    await until(lambda: collector.windows.watched, WITHIN_S)
    seen, number = [], 0
    async with asyncio.timeout(WITHIN_S):
        while api.tokens < 3:
            number += 1
            collector.cut(number)
            seen += await shown(process, 1)
            await asyncio.sleep(0.05)
    assert seen == list(range(1, number + 1))
    assert "nothing is missing" in await line_of(process.stderr, "watching again")


async def test_a_watch_is_told_no_when_it_may_not_come_again(collector, laptop, api):
    process = await laptop.type("watch -o json")
    await until(lambda: collector.windows.watched, WITHIN_S)
    api.answers["token"] = 403
    api.cut()
    out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 1
    assert err.decode().splitlines()[-1].startswith("cvmprobe: a token of ServiceAccount cvmprobe/cvmprobe-viewer: ")
    assert out == b""


async def test_an_agent_is_watched_in_its_own_pod_without_any_token(world, api, laptop):
    class Everybody:
        async def authenticate(self, token):
            return Principal("viewer", Access.VIEWER)

    node, name = MemoryNode(), Endpoint("node2", Role.POD).server_name
    api.pods["cvmprobe-agent-x"] = ("agent", "node2")
    async with serving(world, api, Everybody(), node, name, "cvmprobe-agent-x", 7412):
        process = await laptop.type("watch --agent node2 -o json")
        await until(lambda: node.windows.watched, WITHIN_S)
        node.windows.publish(a_window(1))
        assert await shown(process, 1) == [1]
        api.cut()
        await line_of(process.stderr, "watching again; what the agent cut meanwhile is missing here")
        await until(lambda: node.windows.watched, WITHIN_S)
        node.windows.publish(a_window(9))
        assert await shown(process, 1) == [9]
    assert api.tokens == 0


@pytest.mark.parametrize(
    ("line", "arrange", "said"),
    [
        ("get nodes", lambda api: api.answers.update(token=403), "a token of ServiceAccount cvmprobe/cvmprobe-viewer"),
        ("run quick", lambda api: api.answers.update(token=403), "a token of ServiceAccount cvmprobe/cvmprobe-runner"),
        ("get nodes", lambda api: api.pods.clear(), "no collector of cvmprobe runs in namespace cvmprobe"),
        ("get nodes -n other", lambda api: None, "pods in namespace other: the API server answers 404"),
        ("get nodes", lambda api: setattr(api, "ca", ""), "ConfigMap cvmprobe/cvmprobe-ca is empty"),
        ("get nodes", lambda api: api.answers.update(portforward=403), "port-forward to pod cvmprobe/cvmprobe-coll"),
        ("get nodes", lambda api: api.ports.clear(), "connection refused; is it still starting?"),
        ("watch --agent nodeX", lambda api: None, "no agent of cvmprobe runs on node nodeX in namespace cvmprobe"),
        ("snapshot export", lambda api: api.answers.update(pods=401), "does not accept the credential of context here"),
    ],
)
async def test_what_is_in_the_way_is_one_line(collector, laptop, api, line, arrange, said):
    arrange(api)
    code, out, err = await laptop.call(line)
    assert (code, out) == (1, "")
    *before, last = err.splitlines()
    assert last.startswith("cvmprobe: ")
    assert said in last
    assert before in ([], ["asking the collector in context here, namespace cvmprobe"])


async def test_a_server_of_another_name_is_not_believed(world, api, tokens, laptop):
    async with serving(world, api, tokens, Kept(), name="somebody-else"):
        code, _, err = await laptop.call("get nodes")
    assert code == 1
    assert err.splitlines()[-1].startswith(f"cvmprobe: pod {POD} in context here shows a certificate that is not tru")
    assert tokens.seen == {}


async def test_a_server_of_another_ca_is_not_believed(collector, api, tokens, laptop, tmp_path_factory):
    api.ca = World(tmp_path_factory.mktemp("other")).authority.certificate_pem.decode()
    code, _, err = await laptop.call("get nodes")
    assert code == 1
    assert "shows a certificate that is not trusted here" in err.splitlines()[-1]
    assert tokens.seen == {}


async def test_a_viewer_who_is_no_runner_is_told(collector, laptop, tokens, monkeypatch):
    async def as_viewer(token):
        return Principal("somebody", Access.VIEWER)

    monkeypatch.setattr(tokens, "authenticate", as_viewer)
    code, _, err = await laptop.call("run quick")
    assert code == 1
    assert "somebody (viewer) may not call /cvmprobe.v1.ProbeService/StartRun" in err.splitlines()[-1]


async def test_without_the_kubernetes_client_the_extra_is_named(api, laptop):
    code = "import sys; sys.modules['kubernetes'] = None; from cvmprobe.cli.__main__ import main; sys.exit(main())"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "get", "nodes",
        env=laptop.environment, cwd=laptop.directory, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    laptop.typed.append(process)
    _, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode == 1
    assert err.decode().startswith("cvmprobe: this needs the cli extra (no module 'kubernetes")
    assert err.count(b"\n") == 1
