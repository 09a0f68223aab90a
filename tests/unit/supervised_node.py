"""A supervisor on a clock and an event loop that the test turns by hand, and what it may be sent."""

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cvmprobe.config.agent import AgentBudgets, AgentSettings
from cvmprobe.errors import ProbeError
from cvmprobe.model.assignment import Admission, Lease, LeaseReport, LightProbe, Plan, Side
from cvmprobe.model.delivery import Batch, Heartbeat, Hello
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, PeerAddress, Role
from cvmprobe.model.endpoint import Path as NetPath
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.model.query import Attachment, NodeStatus
from cvmprobe.model.window import Direction, Phase, Probe, SampleBlock, Window
from cvmprobe.node.live import Live
from cvmprobe.node.outbox import Outbox
from cvmprobe.node.supervise import Supervisor
from cvmprobe.probes.execution import Result, Setup

OWN, PEER = Endpoint("a", Role.POD), Endpoint("b", Role.POD)
ENVIRONMENT = Environment((), TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ()))
HELLO = Hello("1", OWN, "boot", "start", 0, 0, ENVIRONMENT)
TO_PEER = EndpointTarget(PEER, NetPath.INTER_NODE)
ID = "0123456789abcdef" * 2
OTHER_ID = "f" * 32


class FakeExecution:
    """Yields windows as the test hands them in, and ends when told."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.windows: list[Window] = []
        self.error: ProbeError | None = None
        self.totals: Mapping[str, int] = {"sent_bytes": 10}
        self.samples: tuple[SampleBlock, ...] = ()
        self.stops = 0
        self.deaf = False
        self._orders: queue.Queue[int | Exception | None] = queue.Queue()

    def step(self, number: int) -> None:
        self._orders.put(number)

    def end(self) -> None:
        self._orders.put(None)

    def crash(self, error: Exception) -> None:
        self._orders.put(error)

    def stop(self) -> None:
        self.stops += 1
        if not self.deaf:
            self._orders.put(None)

    def observe(self) -> Iterator[Window]:
        while (order := self._orders.get(timeout=10)) is not None:
            if isinstance(order, Exception):
                raise order
            window = Window(self.setup.instance, order, 1, Phase.STEADY, {"n": order})
            self.windows.append(window)
            yield window

    def result(self) -> Result:
        return Result(tuple(self.windows), self.totals, self.samples, self.error)


class FakeResponder:
    def __init__(self) -> None:
        self.admitted: dict[bytes, tuple[bytes, Probe, int, int]] = {}
        self.moved: int | None = None
        self.error: ProbeError | None = None

    def admit(self, session_id: bytes, key: bytes, probe: Probe, *, valid_for_ms: int, max_bytes: int) -> None:
        if self.error is not None:
            raise self.error
        self.admitted[session_id] = (key, probe, valid_for_ms, max_bytes)

    def spent(self, session_id: bytes) -> int | None:
        return self.moved if session_id in self.admitted else None

    def revoke(self, session_id: bytes) -> None:
        self.admitted.pop(session_id, None)


class Node:
    """A supervisor on a clock and an event loop that the test turns by hand."""

    def __init__(self, path: Path, budgets: AgentBudgets | None = None) -> None:
        self.now = 100.0
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self.executions: list[FakeExecution] = []
        self.refusal: ProbeError | None = None
        self.responder = FakeResponder()
        packed: list[Batch] = []

        def pack(batch: Batch) -> bytes:
            packed.append(batch)
            return b"%d" % (len(packed) - 1)

        self.outbox = Outbox(
            path / "spool" / "start.sqlite",
            HELLO,
            pack=pack,
            unpack=lambda body: packed[int(body)],
            spool_bytes=1 << 20,
            memory_bytes=1 << 20,
            sample_bytes=1 << 20,
            clock=self.clock,
        )
        self.live = Live(
            lambda: NodeStatus(OWN, Attachment.ATTACHED, "1", "start", 0, 0, 0, 0, 0, ENVIRONMENT),
        )
        settings = AgentSettings(
            collector="c:1",
            ca_file=path,
            token_file=path,
            node="a",
            state_dir=path,
            volumes={"scratch": path},
            budgets=budgets
            or AgentBudgets(light_operations_per_s=100, heavy_bytes_per_day=1_000, disk_write_bytes_per_day=1_000),
        )
        self.supervisor = Supervisor(
            settings,
            outbox=self.outbox,
            live=self.live,
            responder=self.responder,
            prepare=self.prepare,
            post=self.calls.put,
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.now

    def prepare(self, setup: Setup) -> FakeExecution:
        if self.refusal is not None:
            raise self.refusal
        execution = FakeExecution(setup)
        self.executions.append(execution)
        return execution

    def receive(self, message) -> None:
        self.supervisor.receive(message)

    def until(self, condition: Callable[[], object]) -> None:
        """Run what the threads posted until ``condition`` holds."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not come to pass"
            try:
                self.calls.get(timeout=0.02)()
            except queue.Empty:
                continue

    def pass_time(self, seconds: float, heartbeat: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            if heartbeat:
                self.receive(Heartbeat())
            self.supervisor.tick()

    def reports(self) -> list[LeaseReport]:
        return [item for item in self.unnumbered() if isinstance(item, LeaseReport)]

    def unnumbered(self) -> list[object]:
        taken: list[object] = []
        while (item := self.outbox.next_unnumbered()) is not None:
            taken.append(item)
        return taken

    def started(self, count: int) -> FakeExecution:
        self.until(lambda: len(self.executions) == count)
        return self.executions[-1]

    def stored(self) -> list[Window]:
        windows: list[Window] = []
        seq = 0
        while isinstance(batch := self.outbox.after(seq), Batch):
            windows += batch.windows
            seq = batch.seq
        return windows

    def close(self) -> None:
        self.supervisor.close()
        for execution in self.executions:
            execution.end()
        self.until(lambda: self.supervisor.idle)
        self.outbox.close(delivered=False)


@pytest.fixture(name="node")
def make_node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def lease(**changes) -> Lease:
    plain = Lease(
        lease_id=ID,
        run_id="r",
        side=Side.INITIATOR,
        probe=Probe.TCP_STREAM,
        source=OWN,
        target=TO_PEER,
        direction=Direction.FORWARD,
        repeat=0,
        parameters={},
        interval_ms=200,
        duration_ms=3_000,
        valid_for_ms=13_000,
        max_bytes=100,
        peer=PeerAddress("h", 1),
        key=b"k" * 32,
    )
    return replace(plain, **changes)


def light(probe_id: str = "a" * 32, rate: str = "10") -> LightProbe:
    return LightProbe(probe_id, Probe.TCP_RR, TO_PEER, {"rate_per_s": rate}, 10_000, PeerAddress("h", 1), b"k" * 32)


def plan(*probes: LightProbe, valid_for_ms: int = 3_600_000, admissions: tuple[Admission, ...] = ()) -> Plan:
    return Plan("p", valid_for_ms, probes, admissions)
