"""cvmprobe probe: one measurement by hand, as one would use iperf3, sockperf or fio."""

from typing import Final

import typer
from typer.main import get_command

__all__ = ["HELP", "probe"]

HELP: Final = """
Measure one thing by hand, from this machine.

Network probes need 'cvmprobe responder' at the other end, and the same key at both:

    cvmprobe responder --key-file key.txt

    cvmprobe probe tcp-stream HOST --key-file key.txt

Ctrl-C ends it and prints what is there. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 only part of it is there.
"""


def probe(context: typer.Context) -> None:
    """Hand all arguments on to the verbs of the catalog, which nobody else needs."""
    from cvmprobe.cli.by_hand import app

    code = get_command(app).main(context.args, prog_name=context.command_path, standalone_mode=False)
    raise typer.Exit(code if isinstance(code, int) else 0)
