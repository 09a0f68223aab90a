"""cvmprobe run: execute a suite, show how far it is, then a table, and keep the result in a file."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Group

from cvmprobe.cli.export import export, fresh_path
from cvmprobe.cli.figures import figures_of_summaries
from cvmprobe.cli.find import Where, find, located
from cvmprobe.cli.interrupt import run_to_the_end
from cvmprobe.cli.labelled import label_records, labelled
from cvmprobe.cli.line import Line, Way
from cvmprobe.cli.output import Format, FormatOption, note, show
from cvmprobe.cli.progress import RunDisplay
from cvmprobe.cli.records import run_record, summary_metric_record, summary_record
from cvmprobe.cli.tables import tables
from cvmprobe.errors import PartialError, ProbeError, StoreError, UsageError
from cvmprobe.model.query import Missed, Selection, SnapshotFormat, Summary, TimeRange
from cvmprobe.model.run import Run, RunState
from cvmprobe.suites import load_suite, scaled, suite_names
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.identity import Access

__all__ = ["HELP", "run"]

HELP: Final = f"""
Execute a suite of measurements and print the figures.

With --local it measures this machine: a collector and two agents are started for it, talk TLS over loopback,
and are gone afterwards. Without, it asks a local run kept alive with --keep, or the collector of a cluster.
A cluster goes on measuring when this machine is cut off; Ctrl-C cancels the run there.

Suites: {", ".join(suite_names())}.

Measure this machine, in half a minute; or shorter and rougher:

    cvmprobe run quick --local

    cvmprobe run quick --local --scale 0.1

Measure the disk under a directory; hand the figures to a program:

    cvmprobe run quick --local --volume /mnt/data

    cvmprobe run quick --local -o json > run.json

Measure the cluster of your kubeconfig:

    cvmprobe run quick --context production

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some measurements are missing.
"""

_Result = tuple[Run, Sequence[Summary], str]  # the last: why there is no snapshot; empty where there is one


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be run, and where the result goes."""

    suite: str
    scale: float
    repeats: int | None  # None: as the suite says
    path: Path
    local: bool  # the collector ends with us


_CANCEL_S: Final = 10.0
_LOCAL: Final = "Measure this machine; needs no cluster and no root."


@partial(located, local=_LOCAL)
def run(
    where: Where,
    suite: Annotated[str, typer.Argument(help="What to measure: one of the suites above.")] = "quick",
    scale: Annotated[float, typer.Option(metavar="SCALE", help="Durations and file sizes times this, up to 1.")] = 1.0,
    repeats: Annotated[
        int | None, typer.Option(metavar="N", help="Do all of it N times; 'compare' needs 5. Default: the suite's.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="With --local: stay alive afterwards, until Ctrl-C.")] = False,
    volume: Annotated[
        Path | None, typer.Option(help="With --local: directory whose disk is measured; default: where the file goes.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-f", help="Snapshot to write; default: cvmprobe-DATE-TIME.snapshot.zip.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Run a suite, here or in a cluster."""
    where.check()
    scaled(load_suite(suite), scale, repeats)  # a wrong name or scale is told before anything is started
    order = _Order(suite, scale, repeats, fresh_path(output), where.local)
    if where.local:
        code = _run_local(order, _volume(volume, order.path), form, keep=keep)
    else:
        if keep or volume:
            raise UsageError("--keep and --volume belong to --local")
        code = _run_remote(order, form, find(where, Access.RUNNER))
    raise typer.Exit(code)


def _volume(volume: Path | None, path: Path) -> Path:
    directory = path.parent if volume is None else volume
    if not directory.is_dir():
        raise UsageError(f"--volume {directory} is not a directory")
    return directory.resolve()


def _run_local(order: _Order, volume: Path, form: Format, *, keep: bool) -> int:
    from cvmprobe.cli.local import local_cluster

    codes: list[int] = []

    async def work() -> int:
        with RunDisplay() as display:
            async with local_cluster(volume, display.say, display.note) as cluster:
                result = await cluster.while_alive(_measure(cluster.connection, order, display))
                display.stop()
                codes.append(_report(result, order.path, form))
                if keep:
                    _advise_kept()
                    await cluster.while_alive(asyncio.Event().wait())
                else:
                    _advise(order.path, "cvmprobe run quick --local --keep     and then, elsewhere: cvmprobe watch")
            return codes[0]

    return run_to_the_end(work, lambda: codes[0] if codes else None)


def _run_remote(order: _Order, form: Format, way: Way) -> int:
    async def work() -> int:
        with RunDisplay() as display:
            result = await _measure(way, order, display)
        code = _report(result, order.path, form)
        _advise(order.path, "cvmprobe watch", "cvmprobe get nodes")
        return code

    return run_to_the_end(work, lambda: None, insistent=True)


async def _measure(way: Way, order: _Order, display: RunDisplay) -> _Result:
    """Execute a run, export it and return it with its figures.

    When the way breaks the run goes on, and is watched again. When we are interrupted it is cancelled.
    """
    line = Line(way.client, lasting=way.lasting, tell=display.note)
    run: Run | None = None
    try:
        while True:
            async with line as client:
                if run is None:
                    run = await client.start_run(order.suite, order.scale, order.repeats)
                    display.cost(run)
                    line.works()
                async with _rates(client, display), aclosing(client.watch_run(run.run_id)) as states:
                    async for run in states:
                        display.run(run)
                        if not run.state.ended:  # what is left then is short, and is not begun again for ever
                            line.works()
                return await _take(client, run, order.path, display)
    except asyncio.CancelledError:
        if run is not None and not run.state.ended:
            kept = (
                "nothing of it is kept" if order.local else f"what it measured: cvmprobe get windows --run {run.run_id}"
            )
            await _cancel(way, run, display, kept)
        raise


async def _take(client: ProbeClient, run: Run, path: Path, display: RunDisplay) -> _Result:
    """Write the snapshot of a run that has ended, and ask for its figures, which a full disk does not take away."""
    display.say(f"writing {path}")
    unwritten = ""
    try:
        await export(
            client.export_snapshot(run.run_id, TimeRange(), with_samples=True, snapshot_format=SnapshotFormat.ZIP), path
        )
    except StoreError as error:
        unwritten = str(error)
    return run, await client.summarize(Selection(run_id=run.run_id), TimeRange()), unwritten


async def _cancel(way: Way, run: Run, display: RunDisplay, kept: str) -> None:
    """Have a run end; another interrupt leaves it alone."""
    display.note(f"cancelling run {run.run_id}; Ctrl-C again leaves at once")
    try:
        async with asyncio.timeout(_CANCEL_S), way.client() as client:
            run = await client.cancel_run(run.run_id)
    except (ProbeError, TimeoutError) as error:
        display.note(
            f"run {run.run_id} could not be cancelled, and goes on if its collector does: {error or 'no answer'}"
        )
    else:
        display.note(f"run {run.run_id} is {run.state}; {kept}")


@asynccontextmanager
async def _rates(client: ProbeClient, display: RunDisplay) -> AsyncIterator[None]:
    """Show rates beside the block; that they cannot be shown is no reason to end it."""
    rates = asyncio.create_task(_show_rates(client, display))
    try:
        yield
    finally:
        rates.cancel()
        await asyncio.gather(rates, return_exceptions=True)


async def _show_rates(client: ProbeClient, display: RunDisplay) -> None:
    async for window in client.watch_windows(Selection()):
        if not isinstance(window, Missed):
            display.window(window)


def _report(result: _Result, path: Path, form: Format) -> int:
    """Print the figures and return the exit code of the run."""
    run, summaries, unwritten = result
    record = {
        **run_record(run),
        "snapshot": None if unwritten else str(path),
        "labels": label_records([run]),
        "summaries": [summary_record(row) for row in summaries],
    }
    flat = [summary_metric_record(row) for row in summaries]
    table = Group(tables(figures_of_summaries(summaries), [run]), *labelled(summaries, [run]))
    show(form, table, record, flat)
    note(f"cvmprobe: {unwritten}" if unwritten else f"wrote {path} ({path.stat().st_size:,} bytes)")
    if run.state is RunState.DONE:
        return PartialError.exit_code if unwritten else 0
    note(f"cvmprobe: run {run.run_id} is {run.state}: {run.detail or 'no reason given'}")
    return PartialError.exit_code if run.state is RunState.PARTIAL else ProbeError.exit_code


def _advise(path: Path, *more: str) -> None:
    note("Next:")
    if path.exists():
        note(f"  cvmprobe snapshot show {path}")
        note(f"  cvmprobe snapshot show {path} -o csv")
    for line in more:
        note(f"  {line}")


def _advise_kept() -> None:
    note("Kept alive until Ctrl-C. In another terminal:")
    note("  cvmprobe watch                        live windows of the light probes")
    note("  cvmprobe watch --agent local-a        the same from one agent itself")
    note("  cvmprobe get nodes")
    note("  cvmprobe get windows --since 5m -o csv")
    note("  cvmprobe run quick                    measure again")
