"""The command: all verbs, and what is common to them."""

from typing import Annotated, Final

import typer

from cvmprobe import __version__
from cvmprobe.cli import agent, collector, compare, config, doctor, get, probe, responder, run, snapshot, watch
from cvmprobe.cli.program import PASS_ON
from cvmprobe.cli.prose import paragraphs

__all__ = ["app"]

_HELP: Final = """
Measure what a cluster of confidential VMs really gives: network, disk and API performance, on every node.

New here? Measure this machine first; it takes half a minute and needs neither a cluster nor root:

    cvmprobe run quick --local

Measure the cluster of your kubeconfig, once cvmprobe is installed there:

    cvmprobe run quick --cluster

Is this machine, or one of that cluster's, fit to be measured at all?

    cvmprobe doctor

    cvmprobe doctor --node NODE

Look at a result again; or stay alive, and watch from another terminal:

    cvmprobe snapshot show FILE

    cvmprobe run quick --local --keep

    cvmprobe watch

Measure one path by hand, between two machines:

    cvmprobe responder          cvmprobe probe tcp-stream HOST --key KEY

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 only part of the result is there.
"""

app = typer.Typer(name="cvmprobe", help=paragraphs(_HELP), no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cvmprobe {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("run", help=paragraphs(run.HELP))(run.run)
app.command("watch", help=paragraphs(watch.HELP))(watch.watch)
app.command("doctor", help=paragraphs(doctor.HELP))(doctor.doctor)
app.add_typer(get.app, name="get")
app.command("probe", help=paragraphs(probe.HELP), context_settings=PASS_ON, add_help_option=False)(probe.probe)
app.command("responder", help=paragraphs(responder.HELP))(responder.responder)
app.add_typer(snapshot.app, name="snapshot")
app.command("compare", help=paragraphs(compare.HELP))(compare.compare_runs)
app.add_typer(config.app, name="config")
app.command("agent", help=agent.HELP, context_settings=PASS_ON, add_help_option=False)(agent.agent)
app.command("collector", help=collector.HELP, context_settings=PASS_ON, add_help_option=False)(collector.collector)
