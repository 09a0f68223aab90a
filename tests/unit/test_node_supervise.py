"""Leases and light probes end with the agent, and can be watched while they run."""

import asyncio

from tests.unit.supervised_node import OTHER_ID, OWN, Node, lease, light, make_node, plan

from cvmprobe.model.assignment import LeaseState
from cvmprobe.model.query import Selection
from cvmprobe.model.window import Flag, Probe

__all__ = ["make_node"]


def test_close_ends_everything_and_reports_it(node: Node):
    node.receive(plan(light()))
    node.started(1)
    node.receive(lease())
    node.started(2).step(1)
    node.until(lambda: node.executions[1].windows)
    node.supervisor.close()
    node.until(lambda: node.supervisor.idle)
    report = node.reports()[-1]
    assert (report.state, report.detail) == (LeaseState.FAILED, "the agent is ending")
    assert node.stored()[-1].flags == {Flag.CUT}
    node.receive(plan(light("c" * 32)))
    node.receive(lease(lease_id=OTHER_ID))
    assert node.reports()[-1].detail == "the agent is ending"
    node.pass_time(70)
    assert len(node.executions) == 2


def test_abandon_reports_what_close_could_not_end(node: Node):
    node.receive(lease())
    execution = node.started(1)
    execution.deaf = True
    execution.step(1)
    node.until(lambda: execution.windows)
    node.supervisor.close()
    node.supervisor.abandon()
    assert node.supervisor.free
    report = node.reports()[-1]
    assert (report.state, report.last_seq) == (LeaseState.FAILED, 1)


async def test_watchers_see_light_and_heavy_windows_once(node: Node):
    watch = node.live.watch_windows(Selection(probes=(Probe.TCP_STREAM,)))
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)  # it watches from here on
    node.receive(lease())
    execution = node.started(1)
    execution.step(1)
    node.until(lambda: execution.windows and node.calls.empty())
    node.pass_time(1)
    execution.step(2)
    execution.end()
    node.until(lambda: node.supervisor.free)
    assert [await first, await anext(watch)] == execution.windows
    await watch.aclose()
    (probe,) = await node.live.list_probes(Selection())
    assert (probe.windows, probe.last_end_unix_ms) == (2, 2)
    assert (await node.live.list_nodes())[0].endpoint == OWN
