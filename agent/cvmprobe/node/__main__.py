"""python -m cvmprobe.node: the agent of this node."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial

from cvmprobe.config.agent import AgentSettings
from cvmprobe.config.load import load
from cvmprobe.config.program import add_options, until_told
from cvmprobe.errors import ProbeError
from cvmprobe.node.daemon import run
from cvmprobe.node.logs import start_logging

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT; returns the exit code."""
    given = _parser().parse_args(arguments)
    start_logging(given.log_level)
    try:
        settings = load(AgentSettings, "agent", file=given.config, environ=os.environ)
        asyncio.run(until_told(partial(run, settings), until_stdin_closes=given.until_stdin_closes))
    except ProbeError as error:
        sys.stderr.write(f"cvmprobe agent: {error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cvmprobe agent", description="Measure what a collector asks of this node.")
    add_options(parser, "agent")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
