"""What is charged counts until its day is over, wherever it is recorded."""

import logging
from pathlib import Path

import pytest

from cvmprobe.config.agent import AgentBudgets
from cvmprobe.errors import UsageError
from cvmprobe.model.assignment import Lease, Side
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.window import Direction, Probe
from cvmprobe.node.budget import Budget

LIMITS = AgentBudgets(heavy_bytes_per_day=100, disk_write_bytes_per_day=50)


def lease(name: str, max_bytes: int, probe: Probe = Probe.TCP_STREAM) -> Lease:
    return Lease(
        lease_id=name,
        run_id="r",
        side=Side.INITIATOR,
        probe=probe,
        source=Endpoint("a", Role.POD),
        target=VolumeTarget("v"),
        direction=Direction.NONE,
        repeat=0,
        parameters={},
        interval_ms=1,
        duration_ms=1,
        valid_for_ms=1,
        max_bytes=max_bytes,
    )


def test_each_budget_has_its_own_limit_and_the_message_names_it(tmp_path: Path):
    budget = Budget(LIMITS, tmp_path / "spent.json")
    budget.charge(lease("1", 100))
    budget.charge(lease("2", 50, Probe.DISK))
    with pytest.raises(UsageError, match="heavy_bytes_per_day of this node is 100 bytes, of which 0 are left today"):
        budget.charge(lease("3", 1))
    with pytest.raises(UsageError, match="disk_write_bytes_per_day of this node is 50 bytes"):
        budget.charge(lease("4", 1, Probe.DISK))
    budget.charge(lease("5", 10**9, Probe.COMPUTE))


def test_a_new_day_begins_at_nothing_and_an_old_lease_takes_nothing_from_it(tmp_path: Path):
    day = "2026-01-01"
    budget = Budget(LIMITS, tmp_path / "spent.json", lambda: day)
    old = lease("1", 100)
    budget.charge(old)
    day = "2026-01-02"
    budget.settle(old, 30)
    budget.charge(lease("2", 100))
    with pytest.raises(UsageError):
        budget.charge(lease("3", 1))


def test_a_restart_on_the_same_day_remembers_and_a_damaged_record_is_begun_anew(tmp_path: Path):
    path = tmp_path / "spent.json"
    Budget(LIMITS, path).charge(lease("1", 60))
    with pytest.raises(UsageError, match="40 are left"):
        Budget(LIMITS, path).charge(lease("2", 41))
    path.write_text('{"day": 7}')
    Budget(LIMITS, path).charge(lease("3", 100))


def test_a_record_that_cannot_be_written_still_binds_this_start(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    budget = Budget(LIMITS, tmp_path / "missing" / "spent.json")
    with caplog.at_level(logging.WARNING):
        budget.charge(lease("1", 100))
    assert "in memory only" in caplog.text
    with pytest.raises(UsageError):
        budget.charge(lease("2", 1))


def test_settling_gives_back_what_was_not_used_once(tmp_path: Path):
    budget = Budget(LIMITS, tmp_path / "spent.json")
    first = lease("1", 100)
    budget.charge(first)
    budget.settle(first, 30)
    budget.settle(first, 0)
    with pytest.raises(UsageError, match="70 are left"):
        budget.charge(lease("2", 71))
