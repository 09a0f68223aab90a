"""A real collector as a child process, and agents that follow a script, joined by real TLS."""

import asyncio
import json
import os
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.integration.waiting import until

from cvmprobe.model.assignment import Lease, LeaseReport, LeaseState, Plan, Revoke, Side
from cvmprobe.model.delivery import Batch, Bye, Heartbeat, Hello, Loss, Welcome
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Role
from cvmprobe.model.endpoint import Path as NetworkPath
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.model.window import ClockPair, Direction, Instance, Phase, Probe, SampleBlock, Window
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.tls import ClientTls
from cvmprobe.wire.uplink import Uplink

NOW_MS = time.time_ns() // 1_000_000
"""Windows end after this: older ones would soon be pruned."""

AMPLE = "network_bytes_per_day = 1000000000000\ndisk_write_bytes_per_day = 1000000000000\n"
TOKENS = {
    "token-of-a": {"name": "a", "access": "agent", "node": "a"},
    "token-of-b": {"name": "b", "access": "agent", "node": "b"},
    "token-of-a-person": {"name": "somebody", "access": "runner"},
}


class Collector:
    """``python -m cvmprobe.collector`` over one state directory, started as often as asked."""

    def __init__(self, directory: Path, budgets: str = AMPLE):
        self.state = directory / "state"
        self.tokens = directory / "tokens.json"
        self.config = directory / "collector.toml"
        self.log = directory / "collector.log"
        self.tokens.write_text(json.dumps(TOKENS))
        self.tokens.chmod(0o600)
        self.budgets = budgets
        self.environment = {}
        self.address = "127.0.0.1:0"
        self.tls = None
        self.process = None
        self.agents = []

    def identity(self):
        """Settings that say who may come in, and where they are reached."""
        return f'tokens_file = "{self.tokens}"\nhosts = {{ a = "127.0.0.1", b = "127.0.0.1" }}\n'

    async def start(self):
        self.config.write_text(
            f'[collector]\nstate_dir = "{self.state}"\nlisten = "{self.address}"\n{self.identity()}'
            f"[collector.budgets]\n{self.budgets}"
        )
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cvmprobe.collector", "--config", str(self.config), "--until-stdin-closes"),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith(("CVMPROBE_", "KUBE"))}
                | self.environment,
            )
        endpoint_file = self.state / "endpoint.json"
        await until(lambda: endpoint_file.exists() or self.process.returncode is not None, 60)
        assert self.process.returncode is None, self.log.read_text()
        served = json.loads(endpoint_file.read_text())
        self.address = served["address"]  # the same when it is started again
        self.tls = ClientTls(served["ca_pem"].encode(), served["server_name"])

    async def kill(self):
        """Kill -9; as after a power cut, endpoint.json stays, and the next start has to see to it."""
        self.process.kill()
        await self.process.wait()
        (self.state / "endpoint.json").unlink()

    async def end(self):
        """End in order, by SIGTERM; returns the exit code."""
        self.process.terminate()
        return await asyncio.wait_for(self.process.wait(), 30)

    def client(self):
        return ProbeClient(self.address, self.tls, "token-of-a-person")


@asynccontextmanager
async def collector(directory: Path, budgets: str = AMPLE):
    """Have a running collector; whatever happens, no process is left, and no agent."""
    async with ending(Collector(directory, budgets)) as child:
        await child.start()
        yield child


@asynccontextmanager
async def ending(child: Collector):
    """End a collector and its agents with the block."""
    try:
        yield child
    finally:
        for agent in child.agents:
            agent.task.cancel()
        await asyncio.gather(*(agent.task for agent in child.agents), return_exceptions=True)
        if child.process is not None and child.process.returncode is None:
            child.process.kill()
            await child.process.wait()


class Agent:
    """An agent without engines: numbers what it is given, answers leases as ``behave`` says, remembers all acks."""

    def __init__(self, collector, node, start="start-1", behave=None, *, role=Role.POD, token=None):
        self.endpoint = Endpoint(node, role)
        self.token = token or f"token-of-{node}"
        self.behave = behave or answer_well
        self.numbered = {}  # the spool: what is not acked
        self.last_seq = 0
        self.acked = 0
        self.welcomes = []
        self.heartbeats = 0
        self.leases = []
        self.revokes = []
        self.plans = []
        self._beside = []
        verdict = TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ())
        self.hello = Hello("0.1.0", self.endpoint, "boot-1", start, 4711, 0, Environment((), verdict))
        self.uplink = Uplink(
            collector=collector.address,
            tls=lambda: collector.tls,
            token=lambda: self.token,
            hello=lambda: self.hello,
            spool=self,
            receive=self.receive,
        )
        self.task = asyncio.create_task(self.uplink.run())
        collector.agents.append(self)

    def after(self, seq):
        return self.numbered.get(seq + 1)

    def forget(self, seq):
        self.acked = max(self.acked, seq)
        for number in [number for number in self.numbered if number <= seq]:
            del self.numbered[number]

    def next_unnumbered(self):
        return self._beside.pop(0) if self._beside else None

    def receive(self, message):
        match message:
            case Welcome():
                self.welcomes.append(message)
            case Heartbeat():
                self.heartbeats += 1
            case Lease():
                self.leases.append(message)
                self.behave(self, message)
            case Revoke():
                self.revokes.append(message)
            case Plan():
                self.plans.append(message)

    def add(self, *windows):
        self.last_seq += 1
        self.numbered[self.last_seq] = Batch(self.last_seq, windows)
        self.uplink.wake()

    def lose(self, reason):
        self.last_seq += 1
        self.numbered[self.last_seq] = Loss(self.last_seq, self.last_seq, reason)
        self.uplink.wake()

    def say(self, message):
        self._beside.append(message)
        self.uplink.wake()

    def window(self, end, assignment="plan"):
        target = EndpointTarget(Endpoint("b" if self.endpoint.node == "a" else "a", Role.POD), NetworkPath.LOOPBACK)
        instance = Instance(assignment, Probe.TCP_RR, self.endpoint, target, Direction.BOTH, 1)
        return Window(instance, NOW_MS + end, 1_000_000, Phase.STEADY, {"transactions": end})

    async def attached(self):
        await until(lambda: self.uplink.attached or self.task.done())
        assert self.uplink.attached, self.uplink.trouble

    async def vanish(self):
        """End like a killed process: no Bye."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    async def bye(self):
        self.uplink.finish(Bye(self.last_seq))
        await asyncio.wait_for(self.task, 20)


def answer_well(agent, lease):
    """Do as a healthy agent does: arm, or measure two windows, send samples, and report them with their totals."""
    if lease.side is Side.RESPONDER:
        agent.say(LeaseReport(lease.lease_id, Side.RESPONDER, LeaseState.ARMED))
        return
    agent.say(LeaseReport(lease.lease_id, Side.INITIATOR, LeaseState.RUNNING))
    instance = Instance(
        lease.lease_id, lease.probe, lease.source, lease.target, lease.direction, lease.repeat, lease.parameters
    )
    ends = (NOW_MS + agent.last_seq * 10, NOW_MS + agent.last_seq * 10 + 5)
    counters = {"transactions": 10, "sent_bytes": 10, "write_bytes": 10}
    agent.add(*(Window(instance, end, 1_000_000, Phase.STEADY, counters) for end in ends))
    if lease.raw_samples:
        agent.say(SampleBlock(instance, ClockPair(1, ends[0] * 1_000_000), bytes(32), 0))
    totals = {name: 2 * value for name, value in counters.items()}
    agent.say(LeaseReport(lease.lease_id, Side.INITIATOR, LeaseState.DONE, last_seq=agent.last_seq, totals=totals))


def hold(agent, lease):
    """Arm and start, and never end."""
    state = LeaseState.ARMED if lease.side is Side.RESPONDER else LeaseState.RUNNING
    agent.say(LeaseReport(lease.lease_id, lease.side, state))
