"""python -m cvmprobe.collector: run a collector until SIGTERM."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial

from cvmprobe.collector.daemon import run_collector
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.config.load import load
from cvmprobe.config.program import add_options, until_told
from cvmprobe.errors import ProbeError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a collector; returns the exit code: 0 after an orderly end."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        os.umask(0o077)  # whatever is made here is ours alone
        settings = load(CollectorSettings, "collector", file=given.config, environ=os.environ)
        asyncio.run(until_told(partial(run_collector, settings), until_stdin_closes=given.until_stdin_closes))
    except ProbeError as error:
        sys.stderr.write(f"cvmprobe.collector: {error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cvmprobe.collector",
        description="Run a collector: it arranges, stores and serves what agents measure. SIGTERM ends it in order.",
        epilog="Settings: defaults < file < environment (CVMPROBE_COLLECTOR_...); see 'cvmprobe config explain'.",
    )
    add_options(parser, "collector")
    return parser


if __name__ == "__main__":
    sys.exit(main())
