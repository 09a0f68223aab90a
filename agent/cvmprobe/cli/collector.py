"""cvmprobe collector: run the collector of a cluster."""

import typer

from cvmprobe.cli.program import COLLECTOR, become

__all__ = ["HELP", "collector"]

HELP = "Run a collector: it arranges, stores and serves what agents measure (same as python -m cvmprobe.collector)."


def collector(context: typer.Context) -> None:
    """Become the collector."""
    become(COLLECTOR, context.args)
