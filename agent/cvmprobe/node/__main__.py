"""python -m cvmprobe.node: the agent of this node."""

import argparse
import asyncio
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from cvmprobe.config.agent import AgentSettings
from cvmprobe.config.load import load
from cvmprobe.errors import ProbeError
from cvmprobe.node.daemon import run
from cvmprobe.node.logs import start_logging

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT; returns the exit code."""
    given = _parser().parse_args(arguments)
    start_logging(given.log_level)
    try:
        settings = load(AgentSettings, "agent", file=given.config, environ=os.environ)
        asyncio.run(_until_told(settings, until_stdin_closes=given.until_stdin_closes))
    except ProbeError as error:
        sys.stderr.write(f"cvmprobe agent: {error}\n")
        return error.exit_code
    return 0


async def _until_told(settings: AgentSettings, *, until_stdin_closes: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        threading.Thread(target=_wait_for_stdin, args=(loop, stop), name="stdin", daemon=True).start()
    await run(settings, stop)


def _wait_for_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set ``stop`` when the other end of stdin is closed: its holder is gone, however it went."""
    with suppress(OSError):
        while os.read(0, 4_096):
            pass
    with suppress(RuntimeError):  # we were ending anyway
        loop.call_soon_threadsafe(stop.set)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cvmprobe agent", description="Measure what a collector asks of this node.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (TOML, table [agent])")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input is closed")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
