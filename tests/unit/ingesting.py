"""A collector's ingest over a store in memory, and agents that a test attaches and drives by hand."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from tests.unit.memory_store import MemoryStore

from cvmprobe.collector.ingest import Ingest
from cvmprobe.collector.live import Live
from cvmprobe.collector.query import Query
from cvmprobe.collector.roster import Roster
from cvmprobe.collector.writer import Writer
from cvmprobe.model.delivery import Ack, Batch, Hello, StreamKey, Welcome
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.model.window import ClockPair, Direction, Instance, Phase, Probe, SampleBlock, Window
from cvmprobe.wire.identity import Access, Principal

A, B = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
NOBODY = TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ())
AGENT = Principal("a", Access.AGENT, "a")


def hello(start="s1", endpoint=A, service=0):
    return Hello("0.1.0", endpoint, f"boot-{endpoint.node}", start, 4000, service, Environment((), NOBODY))


def stream(start="s1", endpoint=A):
    return StreamKey("local", endpoint, f"boot-{endpoint.node}", start)


def instance(source=A):
    return Instance("lease", Probe.TCP_RR, source, EndpointTarget(B, Path.LOOPBACK), Direction.BOTH, 1)


def window(end, source=A):
    return Window(instance(source), end, 1_000, Phase.STEADY, {"transactions": end})


def batch(seq, source=A):
    return Batch(seq, (window(seq, source),))


def block(number):
    return SampleBlock(instance(), ClockPair(number, number), bytes(16), 0)


@pytest.fixture(autouse=True, scope="module")
def quick_retries():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvmprobe.collector.writer._RETRY_S", 0.01)
        patch.setattr("cvmprobe.collector.writer._GATHER_S", 0.02)
        yield


class Listener:
    def __init__(self):
        self.heard = []

    def attached(self, attached):
        self.heard.append(("attached", attached.endpoint))

    def detached(self, endpoint):
        self.heard.append(("detached", endpoint))

    def reported(self, endpoint, report):
        self.heard.append(("reported", report.lease_id))

    def stored(self, endpoint, start_id, seq):
        self.heard.append(("stored", start_id, seq))


class Surroundings:
    """One node is expected, and nothing is known of any."""

    cluster = "local"
    all_known = False

    def peer(self, hello, principal):
        return None

    def expected(self):
        return [A]

    def facts(self, node):
        return ()


class Collector:
    """What ingest needs around it, over a store in memory."""

    def __init__(self, store=None):
        self.store = store or MemoryStore()
        self.writer = Writer(self.store)
        self.roster = Roster()
        self.live = Live()
        self.listener = Listener()
        self.surroundings = Surroundings()
        self.ingest = Ingest(
            self.surroundings,
            writer=self.writer,
            roster=self.roster,
            live=self.live,
            issue=lambda names: (names[0].encode(), b"key"),
            listener=self.listener,
        )

    def query(self, conductor=None, scratch=None):
        return Query(
            store=self.store,
            writer=self.writer,
            roster=self.roster,
            live=self.live,
            conductor=conductor,
            surroundings=self.surroundings,
            scratch=scratch,
        )

    async def status(self):
        (status,) = await self.query().list_nodes()
        return status

    @asynccontextmanager
    async def running(self):
        writing = asyncio.create_task(self.writer.run())
        try:
            yield self
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            await self.writer.close()


class Agent:
    """One attachment, driven by hand."""

    def __init__(self, collector, introduction=None):
        self.queue = asyncio.Queue()
        self.received = []
        self.task = asyncio.create_task(
            collector.ingest.attach(introduction or hello(), AGENT, self.received.append, self.messages())
        )
        self.collector = collector

    async def messages(self):
        while (message := await self.queue.get()) is not None:
            yield message

    async def send(self, *messages):
        for message in messages:
            self.queue.put_nowait(message)
        await until(lambda: self.queue.empty() or self.task.done())
        await asyncio.sleep(0)

    async def settled(self):
        await asyncio.sleep(0)
        await self.collector.writer.flush()

    async def leave(self):
        self.queue.put_nowait(None)
        await self.task

    @property
    def acked(self):
        return max((message.seq for message in self.received if isinstance(message, Ack)), default=0)

    @property
    def welcome(self):
        assert isinstance(self.received[0], Welcome)
        return self.received[0]


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def attach(collector, introduction=None):
    agent = Agent(collector, introduction)
    await until(lambda: agent.received or agent.task.done())
    return agent
