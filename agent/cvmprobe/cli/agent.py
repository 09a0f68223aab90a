"""cvmprobe agent: run the agent of this node."""

import typer

from cvmprobe.cli.program import AGENT, become

__all__ = ["HELP", "agent"]

HELP = "Run the agent of this node: it measures what a collector asks of it (same as python -m cvmprobe.node)."


def agent(context: typer.Context) -> None:
    """Become the agent."""
    become(AGENT, context.args)
