"""State of a local run: one at a time, settings the programs accept, nothing left, not even by a killed one."""

import json
import stat
import subprocess
import sys

import pytest

from cvmprobe.cli.local.settings import NODES, VOLUME, write_agent, write_collector, write_tokens
from cvmprobe.cli.local.state import local_state
from cvmprobe.config.agent import AgentSettings
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.config.load import load
from cvmprobe.errors import ProbeError, UsageError

KILLED = """
import os, pathlib, signal, sys
from cvmprobe.cli.local.state import local_state
with local_state(pathlib.Path(sys.argv[1])) as state:
    (state.scratch / "file").write_text("x")
    state.endpoint_file.write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    base = tmp_path / "run time"
    base.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    return base / "cvmprobe"


@pytest.fixture
def volume(tmp_path):
    directory = tmp_path / 'vol"ume ü'
    directory.mkdir()
    return directory


def test_nothing_is_left(runtime, volume):
    with local_state(volume) as state:
        (state.scratch / "file").write_text("x")
        (state.state / "collector").mkdir()
        state.endpoint_file.write_text("{}")
        assert state.scratch.parent == volume
    assert not runtime.exists()
    assert list(volume.iterdir()) == []


def test_a_second_run_is_refused_and_disturbs_nothing(runtime, volume):
    with local_state(volume) as state:
        with pytest.raises(ProbeError, match="a local run is alive already; end it with Ctrl-C"), local_state(volume):
            pass
        assert state.scratch.is_dir()
        assert state.state.is_dir()


def test_what_a_killed_run_left_is_swept(runtime, volume):
    subprocess.run([sys.executable, "-c", KILLED, str(volume)], check=False)
    assert (runtime / "local").is_dir()
    with local_state(volume) as state:
        assert list(volume.iterdir()) == [state.scratch]
        assert list(state.scratch.iterdir()) == []
        assert not state.endpoint_file.exists()
    assert not runtime.exists()


def test_a_volume_that_cannot_be_written_is_named(runtime, volume):
    (volume / "file").write_text("x")
    with (
        pytest.raises(UsageError, match=r"cannot measure the disk of .*file: Not a directory; name a directory with"),
        local_state(volume / "file"),
    ):
        pass
    assert not runtime.exists()


def test_the_settings_are_what_the_programs_take(runtime, volume):
    with local_state(volume) as state:
        tokens = write_tokens(state)
        collector = load(CollectorSettings, "collector", file=write_collector(state))
        assert set(collector.hosts) == set(NODES)
        known = json.loads(collector.tokens_file.read_text())
        assert known[tokens.person]["access"] == "runner"
        for node in NODES:
            file = write_agent(state, node, "127.0.0.1:7", "localhost", "pem")
            agent = load(AgentSettings, "agent", file=file)
            assert agent.node == node
            assert agent.volumes == {VOLUME: state.scratch}
            assert known[agent.token_file.read_text()] == {"name": node, "access": "agent", "node": node}
            assert agent.probe_service_token_file.read_text() == tokens.person
            assert agent.ca_file.read_text() == "pem"
        assert stat.S_IMODE(state.state.stat().st_mode) == 0o700
        open_to_all = {path.name for path in state.state.iterdir() if path.stat().st_mode & 0o077}
        assert open_to_all == {"scratch"}
