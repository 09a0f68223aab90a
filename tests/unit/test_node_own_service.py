"""Who may look at an agent's own windows, and that a log line stays one line."""

import json
import logging
import socket
from pathlib import Path

import pytest

from cvmprobe.errors import ConfigError
from cvmprobe.node.logs import start_logging
from cvmprobe.node.own_service import OwnService, authenticator
from cvmprobe.wire.identity import Access


async def test_with_a_token_file_only_its_token_may_look(tmp_path: Path):
    file = tmp_path / "token"
    file.write_text("secret\n")
    asked = authenticator(file)
    principal = await asked.authenticate("secret")
    assert principal is not None
    assert principal.access is Access.VIEWER
    assert await asked.authenticate("") is None
    assert await asked.authenticate("other") is None


async def test_without_one_whoever_reaches_it_may_look():
    principal = await authenticator(None).authenticate("")
    assert principal is not None
    assert principal.access is Access.VIEWER


def test_an_empty_or_missing_token_file_opens_nothing(tmp_path: Path):
    (tmp_path / "empty").write_text(" \n")
    for name in ("empty", "missing"):
        with pytest.raises(ConfigError, match=name):
            authenticator(tmp_path / name)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"agent.probe_service_port = {port}: cannot bind it: Address already"):
            OwnService(None, port, None)


@pytest.fixture(name="root_logger")
def make_root_logger():
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.handlers.clear()
    yield root
    root.setLevel(level)
    root.handlers[:] = handlers


def test_a_log_line_is_one_line(root_logger, capsys):
    start_logging("info")
    try:
        int("first\nsecond")
    except ValueError:
        logging.getLogger("cvmprobe.node.x").exception('said "%s"', "a\nb")
    (line,) = capsys.readouterr().err.splitlines()
    assert " level=error logger=node.x message=" in line
    assert json.loads(line.partition("message=")[2].partition(" traceback=")[0]) == 'said "a\nb"'
    assert "ValueError" in line
