"""A collector and an agent in memory, behind the real wire: what the tests of both services stand on."""

import asyncio
import uuid
from contextlib import asynccontextmanager

import pytest
from tests.integration.waiting import until

from cvmprobe.errors import UsageError
from cvmprobe.model.assignment import LeaseReport, LeaseState, Side
from cvmprobe.model.delivery import Ack, Batch, Bye, Hello, Loss, Preview, Welcome
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.model.query import Attachment, NodeStatus, ProbeStatus, SnapshotFormat, Summary
from cvmprobe.model.run import Cost, Run, RunState
from cvmprobe.model.window import ClockPair, Direction, Instance, Phase, Probe, SampleBlock, Window
from cvmprobe.wire import uplink
from cvmprobe.wire.authority import CertificateAuthority
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.feed import Feed
from cvmprobe.wire.identity import Access, Principal, StaticTokens
from cvmprobe.wire.serve import serve
from cvmprobe.wire.tls import ClientTls, ServerTls

SERVER_NAME = "collector.cvmprobe"
TOKENS = {
    "agent-a": Principal("agent a", Access.AGENT, node="a"),
    "agent-b": Principal("agent b", Access.AGENT, node="b"),
    "agent-lost": Principal("agent without a node", Access.AGENT),
    "viewer": Principal("viewer", Access.VIEWER),
    "runner": Principal("runner", Access.RUNNER),
    "admin": Principal("admin", Access.ADMIN),
    "expired": Principal("was a viewer", Access.VIEWER, expires_unix_ms=1),
    "expired-agent": Principal("was agent a", Access.AGENT, node="a", expires_unix_ms=1),
}


class World:
    """One CA, and servers and clients that trust it."""

    def __init__(self, directory):
        self.authority = CertificateAuthority.load_or_create(directory)
        self.server_tls = ServerTls(*self.authority.issue([SERVER_NAME, "127.0.0.1"]))
        self.client_tls = ClientTls(self.authority.certificate_pem, SERVER_NAME)

    def serve(self, authenticator=None, **handlers):
        return serve("127.0.0.1:0", lambda: self.server_tls, authenticator or StaticTokens(TOKENS), **handlers)

    def uplink(self, port, spool, received=None, *, token="agent-a", node="a", start_id=None, tls=None):
        hello = a_hello(node=node, start_id=start_id or uuid.uuid4().hex)
        return uplink.Uplink(
            collector=f"127.0.0.1:{port}",
            tls=lambda: tls or self.client_tls,
            token=lambda: token,
            hello=lambda: hello,
            spool=spool,
            receive=(received if received is not None else []).append,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("ca"))


@pytest.fixture(autouse=True)
async def nothing_is_left():
    before = asyncio.all_tasks()
    yield
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()}, 2)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """An uplink tries again almost at once."""
    monkeypatch.setattr(uplink, "_FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(uplink, "_LAST_DELAY_S", 0.1)


def client(world, port, token="runner", tls=None):
    return ProbeClient(f"127.0.0.1:{port}", tls or world.client_tls, token)


@asynccontextmanager
async def running(link):
    """Run an uplink within the block, and cancel it then."""
    task = asyncio.create_task(link.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


def an_environment():
    return Environment((), TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ()))


def a_hello(node="a", start_id="start"):
    return Hello("0.1.0", Endpoint(node, Role.POD), "boot", start_id, 7000, 0, an_environment())


def an_instance(assignment_id="plan", node="a"):
    return Instance(
        assignment_id, Probe.DISK, Endpoint(node, Role.POD), VolumeTarget("data"), Direction.NONE, 0, {"depth": "32"}
    )


def a_window(end_unix_ms, node="a", **counters):
    return Window(an_instance(node=node), end_unix_ms, 10**9, Phase.STEADY, counters or {"reads": end_unix_ms})


def a_batch(seq, node="a"):
    return Batch(seq, (a_window(seq * 1000, node),))


def a_block(number, rows=1):
    return SampleBlock(an_instance(), ClockPair(number, number), number.to_bytes(16, "little") * rows, lost=0)


def a_report(lease_id, state=LeaseState.DONE):
    return LeaseReport(lease_id, Side.INITIATOR, state)


class MemoryOutbox:
    """An agent's spool in memory, with the rule of the real one: nothing is forgotten before it is acked."""

    def __init__(self):
        self.numbered = {}
        self.beside = []
        self.forgotten = 0

    def add(self, thing):
        seq = thing.seq if isinstance(thing, Batch) else thing.first_seq
        self.numbered[seq] = thing

    def after(self, seq):
        later = [number for number in self.numbered if number > seq]
        return self.numbered[min(later)] if later else None

    def forget(self, seq):
        self.forgotten = max(self.forgotten, seq)
        for number in [number for number in self.numbered if number <= seq]:
            del self.numbered[number]

    def next_unnumbered(self):
        return self.beside.pop(0) if self.beside else None


class MemoryCollector:
    """Keeps what agents send, each batch once, and acks the highest contiguous number after it is kept."""

    def __init__(self):
        self.stored = {}  # start id -> {seq: batch or loss}
        self.beside = []
        self.previews = []
        self.byes = []
        self.hellos = []
        self.attached = 0
        self.ended = 0
        self.sends = {}  # start id -> send of the newest attachment
        self.duplicates = 0
        self.heartbeat_ms = 2000
        self.acking = True

    def stored_seq(self, start_id):
        kept = self.stored.setdefault(start_id, {})
        seq = 0
        while seq + 1 in kept:
            thing = kept[seq + 1]
            seq = thing.last_seq if isinstance(thing, Loss) else thing.seq
        return seq

    async def attach(self, hello, principal, send, messages):
        self.attached += 1
        self.hellos.append(hello)
        try:
            self.sends[hello.start_id] = send
            send(Welcome(self.stored_seq(hello.start_id), self.heartbeat_ms))
            async for message in messages:
                self._keep(hello.start_id, message, send)
        finally:
            self.ended += 1

    def _keep(self, start_id, message, send):
        kept = self.stored[start_id]
        match message:
            case Batch() | Loss():
                seq = message.seq if isinstance(message, Batch) else message.first_seq
                self.duplicates += seq in kept
                kept[seq] = message
                if self.acking:
                    send(Ack(self.stored_seq(start_id)))
            case Preview():
                self.previews.append(message)
            case Bye():
                self.byes.append(message)
            case _:
                self.beside.append(message)


class MemoryNode:
    """What an agent serves of itself."""

    def __init__(self, depth=8):
        self.windows = Feed(depth)
        self.samples = Feed(depth)

    async def list_nodes(self):
        return [
            NodeStatus(
                Endpoint(f"node-{number:04}", Role.POD),
                Attachment.ATTACHED,
                "0.1.0",
                "s",
                3,
                2,
                1,
                0,
                0,
                an_environment(),
            )
            for number in range(2500)
        ]

    async def list_probes(self, selection):
        nodes = selection.nodes or ("a", "b")
        return [ProbeStatus(an_instance(node=node), 3, 4) for node in nodes]

    def watch_windows(self, selection):
        return self.windows.watch(selection.matches)

    def watch_samples(self, selection):
        return self.samples.watch(lambda _: True)


class MemoryCluster(MemoryNode):
    """What a collector serves besides."""

    def __init__(self, depth=8):
        super().__init__(depth)
        self.asked = []

    async def query_windows(self, selection, span):
        self.asked.append((selection, span))
        for number in range(5000):
            yield a_window(number)

    async def summarize(self, selection, span):
        window = a_window(1).instance
        return [
            Summary(
                window.source, window.probe, window.target, None, window.direction, {}, "total_ns", 1, 1.0, 5,
                mean=2.5, quantiles={0.5: 2.0},
            )
        ]  # fmt: skip

    def _run(self, state=RunState.RUNNING, **changes):
        return Run("r1", "quick", 1.0, state, 5, None, Cost(1.0, 2, 3), 4, **changes)

    async def start_run(self, suite, scale, repeats=None):
        if suite != "quick":
            raise UsageError(f"there is no suite {suite!r}; try quick")
        return self._run(detail=f"scale {scale}")

    async def get_run(self, run_id):
        return self._run()

    async def watch_run(self, run_id):
        yield self._run()
        yield self._run(RunState.DONE)

    async def cancel_run(self, run_id):
        return self._run(RunState.CANCELLED)

    async def list_runs(self):
        return [self._run()]

    async def export_snapshot(self, run_id, span, *, with_samples, snapshot_format):
        assert snapshot_format is SnapshotFormat.ZIP
        yield b"PK"
        yield b"\x03\x04" + (run_id or "all").encode()
