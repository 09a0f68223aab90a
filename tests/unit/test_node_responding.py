"""A lease at its responder, and one that has both sides here."""

from dataclasses import replace

import pytest
from tests.unit.supervised_node import ID, OTHER_ID, OWN, PEER, Node, lease, make_node

from cvmprobe.errors import UsageError
from cvmprobe.model.assignment import LeaseState, Revoke, Side
from cvmprobe.model.endpoint import EndpointTarget
from cvmprobe.model.endpoint import Path as NetPath
from cvmprobe.model.window import Probe

__all__ = ["make_node"]


def test_a_responder_admits_reports_armed_and_lets_go_when_revoked(node: Node):
    node.receive(lease(side=Side.RESPONDER, source=PEER, target=EndpointTarget(OWN, NetPath.INTER_NODE)))
    assert node.responder.admitted == {bytes.fromhex(ID): (b"k" * 32, Probe.TCP_STREAM, 13_000, 100)}
    assert [report.state for report in node.reports()] == [LeaseState.ARMED]
    assert node.outbox.quiet
    node.receive(Revoke(ID, "measured"))
    assert node.responder.admitted == {}
    assert [report.state for report in node.reports()] == [LeaseState.REVOKED]
    assert not node.outbox.quiet


@pytest.mark.parametrize(("moved", "left"), [(30, 970), (0, 1_000), (None, 100)])
def test_a_responder_is_charged_what_it_moved_or_all_of_it(node: Node, moved: int | None, left: int):
    responding = lease(side=Side.RESPONDER, source=PEER, target=EndpointTarget(OWN, NetPath.INTER_NODE), max_bytes=900)
    node.responder.moved = moved
    node.receive(responding)
    node.receive(Revoke(ID, "measured"))
    node.reports()
    node.receive(replace(responding, lease_id=OTHER_ID, max_bytes=1_001))
    assert f"of which {left} are left today" in node.reports()[-1].detail


def test_a_responder_that_cannot_admit_says_why(node: Node):
    node.responder.error = UsageError("no responder serves 'api'")
    node.receive(lease(side=Side.RESPONDER, source=PEER, target=EndpointTarget(OWN, NetPath.INTER_NODE)))
    (report,) = node.reports()
    assert (report.state, report.detail) == (LeaseState.FAILED, "no responder serves 'api'")


@pytest.mark.parametrize("heartbeat", [True, False])
def test_a_responder_lets_go_at_the_deadline_and_in_silence(node: Node, heartbeat: bool):
    node.receive(lease(side=Side.RESPONDER, source=PEER, target=EndpointTarget(OWN, NetPath.INTER_NODE)))
    node.pass_time(14, heartbeat=heartbeat)
    assert node.responder.admitted == {}
    assert node.reports()[-1].state is LeaseState.FAILED


def test_both_sides_of_a_loopback_lease_end_together_and_count_once(node: Node):
    loopback = lease(target=EndpointTarget(OWN, NetPath.LOOPBACK), max_bytes=600)
    node.receive(replace(loopback, side=Side.RESPONDER))
    node.receive(loopback)
    execution = node.started(1)
    execution.step(1)
    execution.end()
    node.until(lambda: node.supervisor.free)
    assert [(report.side, report.state) for report in node.reports()] == [
        (Side.RESPONDER, LeaseState.ARMED),
        (Side.INITIATOR, LeaseState.RUNNING),
        (Side.RESPONDER, LeaseState.DONE),
        (Side.INITIATOR, LeaseState.DONE),
    ]
    assert node.responder.admitted == {}
    assert len(node.stored()) == 1
