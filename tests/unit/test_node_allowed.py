"""What stands against a lease is refused with its reason; what it moved is charged to the day's budget."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.supervised_node import ID, OTHER_ID, PEER, Node, lease, light, make_node, plan

from cvmprobe.config.agent import AgentBudgets
from cvmprobe.model.assignment import LeaseState, Side
from cvmprobe.model.endpoint import VolumeTarget
from cvmprobe.model.window import Direction, Probe

__all__ = ["make_node"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_bytes": 1_001}, "budget heavy_bytes_per_day of this node is 1000 bytes, of which 1000 are left today"),
        ({"source": PEER}, "the initiator of this lease is b/pod, but this is a/pod"),
        ({"side": Side.RESPONDER}, "the responder of this lease is b/pod, but this is a/pod"),
        ({"side": Side.RESPONDER, "target": VolumeTarget("scratch")}, "the responder of this lease is None"),
        ({"target": VolumeTarget("attic"), "probe": Probe.DISK}, "a/pod has no volume 'attic'; it has scratch"),
        ({"interval_ms": 0}, "cannot measure"),
        ({"duration_ms": 14_000}, "cannot measure 14000 ms"),
        ({"interval_ms": 1, "duration_ms": 11_000}, "more than 10000 windows"),
        ({"lease_id": "../../etc"}, "is not 32 hexadecimal digits"),
    ],
)
def test_what_stands_against_a_lease_is_its_reason(node: Node, changes: dict[str, object], reason: str):
    node.receive(lease(**changes))
    (report,) = node.reports()
    assert report.state is LeaseState.FAILED
    assert reason in report.detail
    assert node.supervisor.idle
    assert not node.outbox.quiet


def test_one_lease_at_a_time(node: Node):
    node.receive(lease())
    node.started(1)
    node.receive(lease(lease_id=OTHER_ID))
    assert node.reports()[-1].detail == f"a/pod already holds lease {ID}; one at a time"


def test_a_disk_lease_gets_its_volume(node: Node, tmp_path: Path):
    node.receive(lease(probe=Probe.DISK, target=VolumeTarget("scratch"), peer=None, direction=Direction.NONE))
    assert node.started(1).setup.volume == tmp_path


def test_absent_budgets_refuse_everything(tmp_path: Path):
    node = Node(tmp_path, AgentBudgets())
    node.receive(lease(max_bytes=1))
    node.receive(lease(lease_id=OTHER_ID, probe=Probe.DISK, target=VolumeTarget("scratch"), max_bytes=1))
    node.receive(plan(light(rate="0.1")))
    assert [report.state for report in node.reports()] == [LeaseState.FAILED, LeaseState.FAILED]
    assert node.executions == []
    node.close()


def test_what_a_lease_did_not_use_is_given_back_and_the_rest_outlives_a_restart(tmp_path: Path):
    node = Node(tmp_path)
    node.receive(lease(max_bytes=900))
    node.started(1).end()
    node.until(lambda: node.supervisor.free)
    assert json.loads((tmp_path / "spent.json").read_bytes())["spent"] == {"heavy_bytes_per_day": 10}
    node.close()
    again = Node(tmp_path)
    again.receive(lease(max_bytes=991))
    assert "of which 990 are left today" in again.reports()[-1].detail
    again.close()


@pytest.mark.parametrize(
    ("totals", "left"),
    [
        ({"fill_bytes": 40, "write_bytes": 60}, 900),
        ({"fill_bytes": 40, "read_bytes": 9_000}, 960),
        ({"write_bytes": 60}, 100),
        ({}, 100),
    ],
)
def test_a_disk_lease_is_charged_what_it_wrote_or_all_of_it(node: Node, totals: dict[str, int], left: int):
    disk = lease(probe=Probe.DISK, target=VolumeTarget("scratch"), peer=None, max_bytes=900)
    node.receive(disk)
    execution = node.started(1)
    execution.totals = totals
    execution.end()
    node.until(lambda: node.supervisor.free)
    node.reports()
    node.receive(replace(disk, lease_id=OTHER_ID, max_bytes=1_001))
    assert f"of which {left} are left today" in node.reports()[-1].detail
