"""cvmprobe run: execute a suite, show how far it is, then a table, and keep the result in a file."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from cvmprobe.cli.endpoint import CaFileOption, CollectorOption, Connection, TokenFileOption, find
from cvmprobe.cli.export import export, fresh_path
from cvmprobe.cli.figures import figures_of_summaries
from cvmprobe.cli.interrupt import run_to_the_end
from cvmprobe.cli.output import Format, FormatOption, note, show
from cvmprobe.cli.progress import RunDisplay
from cvmprobe.cli.records import run_record, summary_metric_record, summary_record
from cvmprobe.cli.tables import tables
from cvmprobe.errors import PartialError, ProbeError, UsageError
from cvmprobe.model.query import Missed, Selection, SnapshotFormat, Summary, TimeRange
from cvmprobe.model.run import Run, RunState
from cvmprobe.suites import load_suite, scaled
from cvmprobe.wire.client import ProbeClient

__all__ = ["HELP", "run"]

HELP: Final = """
Execute a suite of measurements and print the figures.

With --local it measures this machine: a collector and two agents are started for it, talk TLS over loopback,
and are gone afterwards. Without, it asks the collector of a cluster, or a local run kept alive with --keep.

Measure this machine, in about a minute; or shorter and rougher:

    cvmprobe run quick --local

    cvmprobe run quick --local --scale 0.1

Measure the disk under a directory; hand the figures to a program:

    cvmprobe run quick --local --volume /mnt/data

    cvmprobe run quick --local -o json > run.json

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some measurements are missing.
"""

_Result = tuple[Run, Sequence[Summary]]
_CANCEL_S: Final = 5.0


def run(
    suite: Annotated[str, typer.Argument(help="What to measure; 'quick' takes about a minute.")] = "quick",
    local: Annotated[bool, typer.Option("--local", help="Measure this machine; needs no cluster and no root.")] = False,
    scale: Annotated[float, typer.Option(metavar="SCALE", help="Durations and file sizes times this, up to 1.")] = 1.0,
    keep: Annotated[bool, typer.Option("--keep", help="With --local: stay alive afterwards, until Ctrl-C.")] = False,
    volume: Annotated[
        Path | None, typer.Option(help="With --local: directory whose disk is measured; default: where the file goes.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-f", help="Snapshot to write; default: cvmprobe-DATE-TIME.snapshot.zip.")
    ] = None,
    form: FormatOption = Format.TABLE,
    collector: CollectorOption = None,
    ca_file: CaFileOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Run a suite, here or in a cluster."""
    scaled(load_suite(suite), scale)  # a wrong name or scale is told before anything is started
    path = fresh_path(output)
    if local:
        if collector or ca_file or token_file:
            raise UsageError("--local starts a collector of its own; leave --collector, --ca-file and --token-file out")
        code = _run_local(suite, scale, path, _volume(volume, path), form, keep=keep)
    else:
        if keep or volume:
            raise UsageError("--keep and --volume belong to --local")
        code = _run_remote(suite, scale, path, form, find(collector, ca_file, token_file))
    raise typer.Exit(code)


def _volume(volume: Path | None, path: Path) -> Path:
    directory = path.parent if volume is None else volume
    if not directory.is_dir():
        raise UsageError(f"--volume {directory} is not a directory")
    return directory.resolve()


def _run_local(suite: str, scale: float, path: Path, volume: Path, form: Format, *, keep: bool) -> int:
    from cvmprobe.cli.local import local_cluster  # noqa: PLC0415 - the only verb that needs a Unix

    codes: list[int] = []

    async def work() -> int:
        with RunDisplay() as display:
            async with local_cluster(volume, display.say, display.note) as cluster:
                async with cluster.connection.client() as client:
                    result = await cluster.while_alive(_measure(client, suite, scale, path, display))
                display.stop()
                codes.append(_report(result, path, form))
                if keep:
                    _advise_kept()
                    await cluster.while_alive(asyncio.Event().wait())
                else:
                    _advise(path)
            return codes[0]

    return run_to_the_end(work, lambda: codes[0] if codes else None)


def _run_remote(suite: str, scale: float, path: Path, form: Format, connection: Connection) -> int:
    async def work() -> int:
        with RunDisplay() as display:
            async with connection.client() as client:
                result = await _measure(client, suite, scale, path, display)
        code = _report(result, path, form)
        _advise(path)
        return code

    return run_to_the_end(work, lambda: None)


async def _measure(client: ProbeClient, suite: str, scale: float, path: Path, display: RunDisplay) -> _Result:
    """Execute the run, export it to ``path`` and return it with its figures."""
    run = await _follow(client, await client.start_run(suite, scale), display)
    display.say(f"writing {path}")
    await export(
        client.export_snapshot(run.run_id, TimeRange(), with_samples=True, snapshot_format=SnapshotFormat.ZIP), path
    )
    return run, await client.summarize(Selection(run_id=run.run_id), TimeRange())


async def _follow(client: ProbeClient, run: Run, display: RunDisplay) -> Run:
    """Show a run until it has ended; cancel it at the collector when we are interrupted."""
    display.cost(run)
    rates = asyncio.create_task(_show_rates(client, display))
    try:
        async for run in client.watch_run(run.run_id):  # noqa: B020, PLR1704 - the same run, as it then stands
            display.run(run)
    except asyncio.CancelledError:
        with suppress(ProbeError, TimeoutError):
            await asyncio.wait_for(client.cancel_run(run.run_id), _CANCEL_S)
        raise
    finally:
        rates.cancel()
        await asyncio.gather(rates, return_exceptions=True)
    return run


async def _show_rates(client: ProbeClient, display: RunDisplay) -> None:
    async for window in client.watch_windows(Selection()):
        if not isinstance(window, Missed):
            display.window(window)


def _report(result: _Result, path: Path, form: Format) -> int:
    """Print the figures and return the exit code of the run."""
    run, summaries = result
    record = {**run_record(run), "snapshot": str(path), "summaries": [summary_record(row) for row in summaries]}
    flat = [summary_metric_record(row) for row in summaries]
    show(form, tables(figures_of_summaries(summaries)), record, flat)
    note(f"wrote {path} ({path.stat().st_size:,} bytes)")
    if run.state is RunState.DONE:
        return 0
    note(f"cvmprobe: run {run.run_id} is {run.state}: {run.detail or 'no reason given'}")
    return PartialError.exit_code if run.state is RunState.PARTIAL else ProbeError.exit_code


def _advise(path: Path) -> None:
    note("Next:")
    note(f"  cvmprobe snapshot show {path}")
    note(f"  cvmprobe snapshot show {path} -o csv")
    note("  cvmprobe run quick --local --keep     and then, elsewhere: cvmprobe watch")


def _advise_kept() -> None:
    note("Kept alive until Ctrl-C. In another terminal:")
    note("  cvmprobe watch                        live windows of the light probes")
    note("  cvmprobe watch --agent local-a        the same from one agent itself")
    note("  cvmprobe get nodes")
    note("  cvmprobe get windows --since 5m -o csv")
    note("  cvmprobe run quick                    measure again")
