"""Settings of the agent load from every layer, and an absent budget is nothing."""

from pathlib import Path

import pytest

from cvmprobe.config.agent import AgentSettings
from cvmprobe.config.load import explain, load
from cvmprobe.errors import ConfigError
from cvmprobe.model.endpoint import Role

LEAST = {
    "CVMPROBE_AGENT_COLLECTOR": "127.0.0.1:7443",
    "CVMPROBE_AGENT_CA_FILE": "/ca/ca.crt",
    "CVMPROBE_AGENT_TOKEN_FILE": "/token/token",
}


def test_absent_budgets_are_zero_and_absent_volumes_none():
    settings = load(AgentSettings, "agent", environ=LEAST)
    budgets = settings.budgets
    assert (budgets.light_operations_per_s, budgets.heavy_bytes_per_day, budgets.disk_write_bytes_per_day) == (0, 0, 0)
    assert settings.volumes == {}
    assert not settings.probe_service
    assert settings.role is Role.POD


def test_file_and_environment_are_taken(tmp_path: Path):
    file = tmp_path / "agent.toml"
    file.write_text(
        "[agent]\ncollector = 'c:1'\nca_file = '/ca'\ntoken_file = '/t'\nrole = 'peer'\n"
        "[agent.volumes]\nscratch = '/scratch'\n[agent.budgets]\nheavy_bytes_per_day = 5\n"
    )
    environ = {"CVMPROBE_AGENT_BUDGETS_DISK_WRITE_BYTES_PER_DAY": "7", "CVMPROBE_AGENT_NODE": "a"}
    settings = load(AgentSettings, "agent", file=file, environ=environ)
    assert settings.volumes == {"scratch": Path("/scratch")}
    assert settings.budgets.heavy_bytes_per_day == 5
    assert settings.budgets.disk_write_bytes_per_day == 7
    assert (settings.node, settings.role) == ("a", Role.PEER)


def test_every_setting_is_documented():
    assert [setting.name for setting in explain(AgentSettings, "agent", environ=LEAST) if not setting.doc] == []


def test_a_budget_below_zero_is_refused():
    environ = {**LEAST, "CVMPROBE_AGENT_BUDGETS_HEAVY_BYTES_PER_DAY": "-1"}
    with pytest.raises(ConfigError, match="heavy_bytes_per_day"):
        load(AgentSettings, "agent", environ=environ)
