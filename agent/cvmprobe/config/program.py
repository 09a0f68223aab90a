"""How a program of ours is told what it runs with, and when to end."""

import argparse
import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

__all__ = ["add_options", "until_told"]

_STDIN = 0


def add_options(parser: argparse.ArgumentParser, table: str) -> None:
    """Add the options that every program has; ``table`` of the file holds its settings."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"TOML file with a [{table}] table")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when stdin closes, so that no parent leaves one behind"
    )


async def until_told(run: Callable[[asyncio.Event], Awaitable[None]], *, until_stdin_closes: bool) -> None:
    """Run a program, whose event is set at SIGTERM, SIGINT or, if asked, at the end of stdin."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        _watch_stdin(loop, stop)
    await run(stop)


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set ``stop`` at the end of stdin; a file, which no event loop can watch, has its end at hand."""

    def readable() -> None:
        if not _more():
            loop.remove_reader(_STDIN)
            stop.set()

    try:
        loop.add_reader(_STDIN, readable)
    except OSError:
        stop.set()


def _more() -> bool:
    try:
        return bool(os.read(_STDIN, 4_096))
    except OSError:  # its other end is gone, however it went
        return False
