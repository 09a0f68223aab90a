"""python -m cvmprobe.collector: run a collector until SIGTERM."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cvmprobe.collector.daemon import run_collector
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.config.load import load
from cvmprobe.errors import ProbeError

__all__ = ["main"]

_STDIN = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a collector; returns the exit code: 0 after an orderly end."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        os.umask(0o077)  # whatever is made here is ours alone
        settings = load(CollectorSettings, "collector", file=options.config, environ=os.environ)
        asyncio.run(_until_told(settings, until_stdin_closes=options.until_stdin_closes))
    except ProbeError as error:
        sys.stderr.write(f"cvmprobe.collector: {error}\n")
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cvmprobe.collector",
        description="Run a collector: it arranges, stores and serves what agents measure. SIGTERM ends it in order.",
        epilog="Settings: defaults < file < environment (CVMPROBE_COLLECTOR_...); see 'cvmprobe config explain'.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with a [collector] table")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when stdin closes, so that no parent leaves one behind"
    )
    return parser.parse_args(arguments)


async def _until_told(settings: CollectorSettings, *, until_stdin_closes: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_closes:
        _watch_stdin(loop, stop)
    await run_collector(settings, stop)


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set ``stop`` at the end of stdin; a file, which no event loop can watch, has its end at hand."""

    def readable() -> None:
        if not os.read(_STDIN, 4_096):
            loop.remove_reader(_STDIN)
            stop.set()

    try:
        loop.add_reader(_STDIN, readable)
    except PermissionError:
        stop.set()


if __name__ == "__main__":
    sys.exit(main())
