"""The agent as a process, with its own engines, at a collector in memory behind real TLS."""

import asyncio
import os
import secrets
import signal
import sys
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.integration.waiting import until
from tests.integration.wire_fakes import MemoryCollector, world

from cvmprobe.model.assignment import Admission, Lease, LeaseReport, LeaseState, LightProbe, Plan, Revoke, Side
from cvmprobe.model.delivery import Batch, Bye, Loss, Welcome
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, PeerAddress, Role
from cvmprobe.model.query import Selection
from cvmprobe.model.window import Direction, Flag, Probe, SampleBlock
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.tls import ClientTls

__all__ = ["world"]

OWN = Endpoint("a", Role.POD)
TO_ITSELF = EndpointTarget(OWN, Path.LOOPBACK)
CONFIG = """
[agent]
collector = "127.0.0.1:{port}"
ca_file = "{directory}/ca.pem"
token_file = "{directory}/token"
server_name = "collector.cvmprobe"
node = "a"
responder_host = "127.0.0.1"
probe_service = true
state_dir = "{directory}/state"
drain_ms = {drain_ms}
[agent.budgets]
light_operations_per_s = 100
heavy_bytes_per_day = 1_000_000_000
"""


class Collector(MemoryCollector):
    """Gives agents certificates too, and keeps each Bye with its start."""

    def __init__(self, authority):
        super().__init__()
        self.authority = authority
        self.ended_starts = {}

    async def attach(self, hello, principal, send, messages):
        def with_certificate(message):
            if isinstance(message, Welcome) and hello.probe_service_port:
                certificate, key = self.authority.issue([hello.endpoint.server_name])
                message = replace(message, certificate_pem=certificate, private_key_pem=key)
            send(message)

        async def noting_byes():
            async for message in messages:
                if isinstance(message, Bye):
                    self.ended_starts[hello.start_id] = message.last_seq
                yield message

        await super().attach(hello, principal, with_certificate, noting_byes())

    def windows(self, start_id):
        batches = [thing for thing in self.stored[start_id].values() if isinstance(thing, Batch)]
        return [window for batch in batches for window in batch.windows]

    def reports(self, lease_id):
        return [item for item in self.beside if isinstance(item, LeaseReport) and item.lease_id == lease_id]

    @property
    def start(self):
        """How the newest living start introduced itself."""
        return next(hello for hello in reversed(self.hellos) if hello.responder_port)


class Node:
    """One agent process, and the directory that its starts share."""

    def __init__(self, directory, world, port):
        self.directory = directory
        self.spools = directory / "state" / "spool"
        (directory / "ca.pem").write_bytes(world.authority.certificate_pem)
        (directory / "token").write_text("agent-a\n")
        self.dial(port)

    def dial(self, port, drain_ms=5_000):
        self.config = self.directory / "agent.toml"
        self.config.write_text(CONFIG.format(port=port, directory=self.directory, drain_ms=drain_ms))

    @asynccontextmanager
    async def running(self):
        arguments = ("-m", "cvmprobe.node", "--config", str(self.config), "--until-stdin-closes")
        with (self.directory / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, stderr=log
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            process.stdin.close()

    def left(self):
        return sorted(path.name for path in self.spools.glob("*"))


async def ended(process):
    async with asyncio.timeout(20):
        return await process.wait()


@pytest.fixture(name="collector")
def make_collector(world):
    return Collector(world.authority)


def leases(hello, **changes):
    """Both sides of a lease of the agent with itself: the responder's, then the initiator's."""
    lease = Lease(
        lease_id=uuid.uuid4().hex,
        run_id="r",
        side=Side.INITIATOR,
        probe=Probe.TCP_RR,
        source=OWN,
        target=TO_ITSELF,
        direction=Direction.FORWARD,
        repeat=0,
        parameters={"wait": "block"},
        interval_ms=100,
        duration_ms=500,
        valid_for_ms=20_000,
        max_bytes=100_000_000,
        raw_samples=True,
        peer=PeerAddress("127.0.0.1", hello.responder_port),
        key=secrets.token_bytes(32),
    )
    lease = replace(lease, **changes)
    return replace(lease, side=Side.RESPONDER, peer=None), lease


def light_plan(hello):
    probe_id, key = uuid.uuid4().hex, secrets.token_bytes(32)
    peer = PeerAddress("127.0.0.1", hello.responder_port)
    probe = LightProbe(probe_id, Probe.TCP_RR, TO_ITSELF, {"rate_per_s": "50"}, 200, peer, key)
    return Plan("p", 60_000, (probe,), (Admission(probe_id, Probe.TCP_RR, key),))


async def lease_end(collector, pair):
    """Grant both sides in their order, and wait for the initiator's end."""
    send, lease_id = collector.sends[collector.start.start_id], pair[0].lease_id
    send(pair[0])
    await until(lambda: collector.reports(lease_id))
    assert collector.reports(lease_id)[0].state is LeaseState.ARMED
    send(pair[1])
    return await initiator_end(collector, lease_id)


async def initiator_end(collector, lease_id):
    def ends():
        return [r for r in collector.reports(lease_id) if r.side is Side.INITIATOR and r.state.ended]

    await until(ends)
    return ends()[0]


async def test_a_lease_is_measured_delivered_and_the_end_is_orderly(world, collector, tmp_path):
    async with world.serve(ingest=collector) as port:
        node = Node(tmp_path, world, port)
        async with node.running() as process:
            await until(lambda: collector.hellos)
            start = collector.start
            assert (start.endpoint, start.version) == (OWN, "0.1.0")
            report = await lease_end(collector, leases(start))
            assert (report.state, report.detail) == (LeaseState.DONE, "")
            blocks = [item for item in collector.beside if isinstance(item, SampleBlock)]
            assert collector.beside.index(report) > collector.beside.index(blocks[-1])
            await until(lambda: collector.stored_seq(start.start_id) >= report.last_seq)
            windows = collector.windows(start.start_id)
            counted = sum(window.counters["transactions"] for window in windows)
            assert counted == report.totals["transactions"] > 0
            assert counted == sum(len(block.rows) // 16 + block.lost for block in blocks)
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
        assert collector.ended_starts == {start.start_id: report.last_seq}
        assert node.left() == []


async def test_light_windows_flow_and_pause_while_a_lease_runs(world, collector, tmp_path):
    async with world.serve(ingest=collector) as port:
        node = Node(tmp_path, world, port)
        async with node.running():
            await until(lambda: collector.hellos)
            start = collector.start
            plan = light_plan(start)
            collector.sends[start.start_id](plan)
            await until(lambda: collector.windows(start.start_id))
            report = await lease_end(collector, leases(start, raw_samples=False, duration_ms=1_500))
            assert report.state is LeaseState.DONE, report.detail
            seen = len(collector.windows(start.start_id))
            await until(lambda: len(collector.windows(start.start_id)) > seen + 5)
            windows = collector.windows(start.start_id)
    heavy = [
        window for window in windows if window.instance.probe is Probe.TCP_RR and "wait" in window.instance.parameters
    ]
    light = [window for window in windows if window.instance.assignment_id == plan.probes[0].probe_id]
    begin, end = heavy[0].end_unix_ms - 100, heavy[-1].end_unix_ms
    assert {window.instance.assignment_id for window in light} == {plan.probes[0].probe_id}
    assert [window for window in light if begin + 50 < window.end_unix_ms < end - 50] == []
    assert collector.previews


async def test_revoke_cuts_it_on_both_ends(world, collector, tmp_path):
    async with world.serve(ingest=collector) as port:
        node = Node(tmp_path, world, port)
        async with node.running():
            await until(lambda: collector.hellos)
            start = collector.start
            pair = leases(start, duration_ms=15_000)
            send = collector.sends[start.start_id]
            send(pair[0])
            await until(lambda: collector.reports(pair[0].lease_id))
            send(pair[1])
            await until(lambda: collector.previews)
            send(Revoke(pair[0].lease_id, "enough"))
            report = await initiator_end(collector, pair[0].lease_id)
            assert (report.state, report.detail) == (LeaseState.REVOKED, "enough")
            await until(lambda: collector.stored_seq(start.start_id) >= report.last_seq)
            assert all(Flag.CUT in window.flags for window in collector.windows(start.start_id))


async def test_what_a_killed_agent_had_spooled_is_delivered_under_its_own_start(world, collector, tmp_path):
    collector.acking = False
    async with world.serve(ingest=collector) as port:
        node = Node(tmp_path, world, port)
        async with node.running() as process:
            await until(lambda: collector.hellos)
            dead = collector.start.start_id
            report = await lease_end(collector, leases(collector.start))
            await until(lambda: report.last_seq in collector.stored[dead])
            lost = collector.stored.pop(dead)
            os.kill(process.pid, signal.SIGKILL)
            await ended(process)
        assert f"{dead}.sqlite" in node.left()
        collector.acking = True
        async with node.running() as process:
            await until(lambda: collector.start.start_id != dead)
            assert collector.stored[dead] == lost
            assert not any(isinstance(thing, Loss) for thing in lost.values())
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
        assert list(collector.ended_starts) == [collector.start.start_id]
        assert node.left() == []


async def test_an_end_without_a_collector_leaves_all_for_the_next_start(world, collector, tmp_path):
    async with world.serve(ingest=collector) as port:
        node = Node(tmp_path, world, port)
        node.dial(port, drain_ms=300)
        collector.acking = False
        async with node.running() as process:
            await until(lambda: collector.hellos)
            first = collector.start.start_id
            report = await lease_end(collector, leases(collector.start))
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
        assert collector.ended_starts == {}
        collector.acking = True
        collector.stored.pop(first)
        async with node.running() as process:
            await until(lambda: collector.start.start_id != first)
            assert collector.ended_starts == {first: report.last_seq}
            assert collector.stored_seq(first) == report.last_seq


async def test_it_ends_when_its_parent_does(world, collector, tmp_path):
    async with world.serve(ingest=collector) as port:
        node = Node(tmp_path, world, port)
        async with node.running() as process:
            await until(lambda: collector.hellos)
            process.stdin.close()
            assert await ended(process) == 0
        assert list(collector.ended_starts) == [collector.start.start_id]


async def test_it_shows_its_own_live_windows(world, collector, tmp_path):
    async with world.serve(ingest=collector) as port:
        node = Node(tmp_path, world, port)
        async with node.running():
            await until(lambda: collector.hellos)
            start = collector.start
            collector.sends[start.start_id](light_plan(start))
            await until(lambda: collector.windows(start.start_id))
            tls = ClientTls(world.authority.certificate_pem, start.endpoint.server_name)
            async with ProbeClient(f"127.0.0.1:{start.probe_service_port}", tls, "") as probes, asyncio.timeout(20):
                (status,) = await probes.list_nodes()
                assert (status.endpoint, status.start_id) == (OWN, start.start_id)
                assert status.numbered == status.stored + status.pending + status.lost > 0
                (probe,) = await probes.list_probes(Selection())
                assert probe.windows > 0
                async for window in probes.watch_windows(Selection(nodes=("a",))):
                    assert window.instance == probe.instance
                    break


@pytest.mark.parametrize("text", ["[agent]\ncolector = 'x:1'\n", "[agent]\n", "not toml"])
async def test_a_wrong_setting_is_one_line(tmp_path, text):
    config = tmp_path / "agent.toml"
    config.write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cvmprobe.node", "--config", str(config), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert len(said.decode().splitlines()) == 1
    assert "Traceback" not in said.decode()
