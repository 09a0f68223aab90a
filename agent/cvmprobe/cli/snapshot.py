"""cvmprobe snapshot: write what a collector holds into a file, and look into such a file."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cvmprobe.cli.export import export, fresh_path
from cvmprobe.cli.find import Where, find, located
from cvmprobe.cli.output import Format, FormatOption, note
from cvmprobe.cli.selection import since_range
from cvmprobe.errors import UsageError
from cvmprobe.model.query import SnapshotFormat
from cvmprobe.wire.identity import Access

__all__ = ["app", "export_snapshot", "show_snapshot"]

app = typer.Typer(help="Write snapshots to files, and look into them.", no_args_is_help=True)

_SUFFIXES = {SnapshotFormat.ZIP: "snapshot.zip", SnapshotFormat.JSON: "json", SnapshotFormat.CSV: "csv"}


@app.command("export")
@located
def export_snapshot(
    where: Where,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only this run, as 'get runs' names it.")] = None,
    since: Annotated[str | None, typer.Option(metavar="SPAN", help="Only the last 90s, 5m, 2h or 1d.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-f", help="File to write; default: cvmprobe-DATE-TIME.snapshot.zip.")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples/--no-samples", help="With raw samples.")] = False,
    snapshot_format: Annotated[SnapshotFormat, typer.Option("--format", help="What to write.")] = SnapshotFormat.ZIP,
) -> None:
    """Write a snapshot: everything a collector holds, of one run, or of the last while.

    Example: cvmprobe snapshot export --since 1h --samples
    """
    if run and since:
        raise UsageError("--run and --since exclude each other: a run has its own time")
    path = fresh_path(output, _SUFFIXES[snapshot_format])
    span = since_range(since)
    way = find(where, Access.VIEWER)

    async def write() -> None:
        async with way.client() as client:
            chunks = client.export_snapshot(run, span, with_samples=samples, snapshot_format=snapshot_format)
            await export(chunks, path)

    asyncio.run(write())
    note(f"wrote {path} ({path.stat().st_size:,} bytes)")
    if snapshot_format is SnapshotFormat.ZIP:
        note(f"  cvmprobe snapshot show {path}")


@app.command("show")
def show_snapshot(
    file: Annotated[Path, typer.Argument(help="A snapshot, as 'run' and 'snapshot export' write it.")],
    form: FormatOption = Format.TABLE,
) -> None:
    """Print what a snapshot holds. It needs no collector.

    Example: cvmprobe snapshot show cvmprobe-20250101-120000.snapshot.zip -o csv
    """
    from cvmprobe.cli.contents import show_contents

    show_contents(file, form)
