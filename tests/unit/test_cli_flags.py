"""The flags of a probe by hand are the parameters of its catalog entry, told as those are."""

from typing import Annotated, Literal

import msgspec
import pytest
import typer
from msgspec import Meta
from typer.testing import CliRunner

from cvmprobe.cli.by_hand import app
from cvmprobe.cli.flags import asked, options_of
from cvmprobe.cli.hand import PORT, address_of, read_key
from cvmprobe.errors import UsageError
from cvmprobe.model.endpoint import PeerAddress
from cvmprobe.probes.catalog import CATALOG


class Parameters(msgspec.Struct):
    size_bytes: Annotated[int, Meta(ge=1, le=4096, description="how big")] = 16
    mode: Annotated[Literal["slow", "fast"], Meta(description="how fast")] = "slow"
    rate_per_s: Annotated[float, Meta(ge=0, description="how often")] = 0.0
    checked: Annotated[bool, Meta(description="how careful")] = False
    name: Annotated[str, Meta(description="what it is called")] = ""


@pytest.mark.parametrize("probe", sorted(CATALOG))
def test_every_parameter_is_a_flag(probe):
    told = CliRunner().invoke(app, [probe.replace("_", "-"), "--help"], env={"COLUMNS": "400"}).output
    for name in CATALOG[probe].parameters.__struct_fields__:
        assert f"--{name.replace('_', '-')}" in told


def test_help_says_what_what_for_and_between_what():
    help_of = {}
    for option in options_of(Parameters, "panel"):
        annotated = option.annotation.__metadata__[0]
        help_of[option.name] = (annotated.metavar, annotated.help)
    assert help_of == {
        "size_bytes": ("N", "How big (1 to 4096, default 16)"),
        "mode": ("fast|slow", "How fast (default slow)"),
        "rate_per_s": ("N", "How often (from 0, default 0)"),
        "checked": (None, "How careful (default false)"),
        "name": ("TEXT", "What it is called (default none)"),
    }


def test_what_was_given_reaches_the_probe_as_text():
    seen = []
    cli = typer.Typer()

    def verb(**values):
        seen.append(asked(values))

    import inspect

    verb.__signature__ = inspect.Signature(options_of(Parameters, "panel"))
    cli.command()(verb)
    given = ["--size-bytes", "2k", "--checked", "--rate-per-s", "1.5"]
    assert CliRunner().invoke(cli, given).exit_code == 0
    assert seen == [{"size_bytes": "2048", "checked": "true", "rate_per_s": "1.5"}]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("b", "b", PORT), ("b:1", "b", 1), ("[::1]:2", "::1", 2), ("[::1]", "::1", PORT), ("fd00::1", "fd00::1", PORT)],
)
def test_an_address_is_read(text, host, port):
    assert address_of(text) == PeerAddress(host, port)


@pytest.mark.parametrize("text", ["", ":1", "b:x", "b:65536", "[]:1"])
def test_what_is_no_address_is_named(text):
    with pytest.raises(UsageError, match="is no address"):
        address_of(text)


def test_a_key_comes_from_a_file_or_the_command_line(tmp_path):
    file = tmp_path / "key"
    file.write_text("k" * 20 + "\n")
    assert read_key(None, file) == b"k" * 20
    assert read_key("c" * 16, None) == b"c" * 16
    assert read_key(None, None) is None
    for key, path, named in ((None, tmp_path / "none", "cannot read"), ("short", None, "5 bytes"), ("", None, "0 b")):
        with pytest.raises(UsageError, match=named):
            read_key(key, path)
