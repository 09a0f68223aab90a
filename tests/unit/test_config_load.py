"""Settings: precedence, sources, masking, and errors that name the source, the key and the value."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from cvmprobe.config.load import Secret, explain, load
from cvmprobe.errors import ConfigError


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    disk_bytes: Annotated[int, Meta(ge=0, description="bytes a day")] = 0
    streams: int = 4


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    collector: Annotated[str, Meta(description="host:port")]
    state_dir: Path | None = None
    names: tuple[str, ...] = ()
    volumes: dict[str, Path] = {}
    token: Annotated[Secret, Meta(description="who we are")] = ""
    budgets: Budgets = Budgets(disk_bytes=7)

    def __post_init__(self):
        if self.collector == "nowhere":
            raise ValueError("collector must be somewhere")


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "cvmprobe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_of_a_nested_default_instance_stand():
    settings = load(Settings, "agent", flags={"collector": "a:1"})
    assert settings == Settings(collector="a:1")
    assert settings.budgets.disk_bytes == 7


def test_flags_beat_environment_beats_file_beats_default(file):
    path = file('[agent]\ncollector = "file:1"\n[agent.budgets]\nstreams = 1\ndisk_bytes = 1\n')
    environ = {"CVMPROBE_AGENT_COLLECTOR": "environment:1", "CVMPROBE_AGENT_BUDGETS_STREAMS": "2"}
    settings = load(Settings, "agent", file=path, environ=environ, flags={"collector": "flag:1", "token": None})
    assert settings == Settings(collector="flag:1", budgets=Budgets(streams=2, disk_bytes=1))


def test_lists_tables_and_paths_come_from_the_environment_too():
    environ = {
        "CVMPROBE_AGENT_COLLECTOR": "a:1",
        "CVMPROBE_AGENT_NAMES": "x, y",
        "CVMPROBE_AGENT_VOLUMES": "fast=/a,slow=/b",
        "CVMPROBE_AGENT_STATE_DIR": "/s",
    }
    settings = load(Settings, "agent", environ=environ)
    assert settings.names == ("x", "y")
    assert settings.volumes == {"fast": Path("/a"), "slow": Path("/b")}
    assert settings.state_dir == Path("/s")
    assert load(Settings, "agent", environ=environ | {"CVMPROBE_AGENT_NAMES": ""}).names == ()


def test_the_table_of_another_program_is_left_alone(file):
    path = file('[collector]\nwhatever = 1\n[agent]\ncollector = "a:1"\n')
    assert load(Settings, "agent", file=path).collector == "a:1"


def test_variables_kubernetes_injects_for_a_service_are_left_alone():
    environ = {
        "CVMPROBE_AGENT_SERVICE_HOST": "10.0.0.1",
        "CVMPROBE_AGENT_SERVICE_PORT_GRPC": "7443",
        "CVMPROBE_AGENT_PORT": "tcp://10.0.0.1:7443",
        "CVMPROBE_AGENT_PORT_7443_TCP_ADDR": "10.0.0.1",
    }
    assert load(Settings, "agent", environ=environ, flags={"collector": "a:1"}).collector == "a:1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[agent]\ncolector = 'a:1'", "cvmprobe.toml: unknown key in [agent] 'colector'; did you mean 'collector'?"),
        (
            "[agent.budgets]\ndisc_bytes = 1",
            "unknown key in [agent] 'budgets.disc_bytes'; did you mean 'budgets.disk_bytes'",
        ),
        ("[agnet]\nx = 1", "unknown table 'agnet'; did you mean 'agent'?"),
        ("[agent]\nqqqq = 1", "known are: collector, state_dir"),
        ("[agent]\nbudgets = 3", "agent.budgets must be a table, but is 3"),
        ("[agent]\ncollector = 3", "cvmprobe.toml: agent.collector = 3: expected str, got int"),
        ("[agent]\ncollector = 'a'\nbudgets.disk_bytes = -1", "agent.budgets.disk_bytes = -1: expected int >= 0"),
        ("[agent]\ncollector = 'a'\nstate_dir = 3", "agent.state_dir = 3: expected"),
        ("[agent]\ncollector = 'a'\ntoken = 3", r"agent.token = ********: expected str, got int"),
        ("[agent]\ncollector = 'nowhere'", "agent: collector must be somewhere"),
        ("[agent", "is not TOML"),
        ("", "agent.collector is not set: give it in the configuration file or as CVMPROBE_AGENT_COLLECTOR"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_key_and_value(file, text, message):
    with pytest.raises(ConfigError) as caught:
        load(Settings, "agent", file=file(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_variable_or_flag_is_named():
    with pytest.raises(ConfigError, match=r"environment CVMPROBE_AGENT_BUDGETS_STREAMS: agent.budgets.streams = 'two'"):
        load(Settings, "agent", environ={"CVMPROBE_AGENT_COLLECTOR": "a", "CVMPROBE_AGENT_BUDGETS_STREAMS": "two"})
    with pytest.raises(ConfigError, match="'CVMPROBE_AGENT_COLECTOR'; did you mean 'CVMPROBE_AGENT_COLLECTOR'"):
        load(Settings, "agent", environ={"CVMPROBE_AGENT_COLECTOR": "a"})
    with pytest.raises(ConfigError, match=r"flags: unknown setting 'budgets.stream'; did you mean 'budgets.streams'"):
        load(Settings, "agent", flags={"collector": "a", "budgets.stream": 1})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read configuration file .*none\.toml: No such file"):
        load(Settings, "agent", file=tmp_path / "none.toml")


def test_explain_tells_value_source_and_doc_and_hides_secrets(file):
    path = file('[agent]\ntoken = "very secret"\n')
    rows = {row.name: row for row in explain(Settings, "agent", file=path, environ={"CVMPROBE_AGENT_COLLECTOR": "a:1"})}
    assert set(rows) == {
        "agent.collector",
        "agent.state_dir",
        "agent.names",
        "agent.volumes",
        "agent.token",
        "agent.budgets.disk_bytes",
        "agent.budgets.streams",
    }
    assert (rows["agent.collector"].value, rows["agent.collector"].source) == (
        "a:1",
        "environment CVMPROBE_AGENT_COLLECTOR",
    )
    assert rows["agent.collector"].doc == "host:port"
    assert (rows["agent.token"].value, rows["agent.token"].source) == ("********", str(path))
    assert rows["agent.token"].doc == "who we are"
    assert (rows["agent.budgets.disk_bytes"].value, rows["agent.budgets.disk_bytes"].source) == (7, "default")
    assert "very secret" not in repr(rows)


def test_an_empty_secret_is_shown_as_empty():
    rows = {row.name: row for row in explain(Settings, "agent", flags={"collector": "a"})}
    assert rows["agent.token"].value == ""


def test_explain_shows_what_must_still_be_set():
    rows = {row.name: row for row in explain(Settings, "agent")}
    assert (rows["agent.collector"].value, rows["agent.collector"].source) == (None, "required")
    assert rows["agent.budgets.streams"].value == 4


def test_explain_refuses_what_load_refuses():
    with pytest.raises(ConfigError, match="collector must be somewhere"):
        explain(Settings, "agent", flags={"collector": "nowhere"})
