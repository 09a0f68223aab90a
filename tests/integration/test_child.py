"""Children: they end when asked, when we end, or when killed; one that dies early has its last word."""

import asyncio
import textwrap

import pytest
from tests.integration.waiting import until

from cvmprobe.cli.local.child import Child

POLITE = """
import sys
sys.stdin.read()
"""
DEAF = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[2]).with_name("deaf").touch()
time.sleep(1000)
"""
DYING = """
import sys
print("first", file=sys.stderr)
sys.exit("no room: /x\\n\\n")
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a child that runs the given program as a module."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def started(program: str) -> Child:
        (tmp_path / "program.py").write_text(textwrap.dedent(program))
        return await Child.start("the child", "program", tmp_path / "x.toml", tmp_path / "log")

    return started


async def test_a_child_ends_when_asked_and_twice_is_fine(start):
    child = await start(POLITE)
    await child.end(10)
    assert child.process.returncode is not None
    await child.end(10)


async def test_a_child_ends_when_its_stdin_closes(start):
    child = await start(POLITE)
    child.process.stdin.close()
    assert await asyncio.wait_for(child.process.wait(), 10) == 0
    await child.end(10)


async def test_a_deaf_child_is_killed(start, tmp_path):
    child = await start(DEAF)
    await until((tmp_path / "deaf").exists)
    await child.end(0.1)
    assert child.process.returncode == -9


async def test_a_child_that_dies_has_its_last_word(start):
    child = await start(DYING)
    error = await asyncio.wait_for(child.died(), 10)
    assert str(error) == "the child ended early (exit 1): no room: /x"
    await child.end(10)


async def test_of_a_killed_child_the_last_line_is_not_given_as_the_reason(start):
    child = await start("import os, signal, sys\nprint('all is well', file=sys.stderr)\nos.kill(os.getpid(), 9)\n")
    error = await asyncio.wait_for(child.died(), 10)
    assert str(error) == "the child was ended by signal 9 (SIGKILL); its last line: all is well"
    await child.end(10)
