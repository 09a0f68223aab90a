"""cvmprobe compare: two runs of the same thing, held against each other; for people, and for gates in CI."""

import asyncio
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from cvmprobe.analysis import KEPT_WEIGHT, Comparison, Side, Verdict, compare, series
from cvmprobe.cli.comparison import Judgement, markdown, record, table
from cvmprobe.cli.export import export
from cvmprobe.cli.find import Where, find, located
from cvmprobe.cli.output import Format, show
from cvmprobe.errors import PartialError, ProbeError, UsageError
from cvmprobe.model.query import SnapshotFormat, TimeRange
from cvmprobe.store.manifest import Manifest
from cvmprobe.wire.identity import Access

__all__ = ["HELP", "Report", "compare_runs"]

HELP: Final = """
Hold run B against run A: what became better, worse, stayed the same, or cannot be told.

A and B are snapshot files, or ids of runs that a collector still has. The unit is the repeat, of which each
side needs at least five: cvmprobe run quick --local --repeats 5. Worse means worse by more than the minimum
effect, at 5 % over all metrics together. What was measured by other engines, on another kernel or with other
parameters is not compared unless --force is given.

Look at a change; or let a pipeline fail where something became worse by over 5 %:

    cvmprobe compare before.snapshot.zip after.snapshot.zip

    cvmprobe compare before.snapshot.zip after.snapshot.zip --fail-over 5% -o markdown

Exit codes: 0 no regression, 1 regression, 2 wrong usage or a side that cannot be read, 3 some of it cannot
be compared.
"""

_REGRESSION: Final = 1
_OF_LOSS: Final = f"of what was lost on the way, 1/{KEPT_WEIGHT} of it"


class Report(StrEnum):
    """How a comparison is printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


def _share(text: str) -> float:
    """Read ``5%`` or ``0.05``."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"{text!r} is no share: give one such as 5% or 0.05, below 100%")
    return value


@located
def compare_runs(
    where: Where,
    a: Annotated[str, typer.Argument(metavar="A", help="Snapshot file or run id: what it was before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Snapshot file or run id: what it is now.")],
    fail_over: Annotated[
        str,
        typer.Option(metavar="SHARE", help=f"Exit with 1 only where something is worse by more than this; {_OF_LOSS}."),
    ] = "0%",
    min_effect: Annotated[
        str,
        typer.Option(
            metavar="SHARE", help=f"What is within this is of no interest: neither better nor worse; {_OF_LOSS}."
        ),
    ] = "2%",
    force: Annotated[bool, typer.Option("--force", help="Compare also what was measured by unlike means.")] = False,
    form: Annotated[Report, typer.Option("--output-format", "-o", help="How to print the result.")] = Report.TABLE,
) -> None:
    """Compare two runs."""
    effect, limit = _share(min_effect), _share(fail_over)
    rows = compare(_readable(a, where), _readable(b, where), min_effect=effect, force=force)
    judgement = Judgement(a, b, effect, limit, rows)
    if form is Report.MARKDOWN:
        typer.echo(markdown(judgement))
    else:
        show(Format(form.value), table(judgement), record(judgement))
    raise typer.Exit(_exit_code(rows, limit))


def _exit_code(rows: Sequence[Comparison], limit: float) -> int:
    if any(row.verdict is Verdict.WORSE and row.loss > row.effect(limit) for row in rows):
        return _REGRESSION
    return PartialError.exit_code if not rows or any(row.partial for row in rows) else 0


def _readable(name: str, where: Where) -> Side:
    """Read a side. Raises UsageError whatever the hindrance: a gate in CI takes 1 for a regression."""
    try:
        return _side(name, where)
    except UsageError:
        raise
    except (ProbeError, OSError) as error:
        raise UsageError(str(error)) from error


def _side(name: str, where: Where) -> Side:
    """Read a side from a file, or else ask a collector for the run of that id."""
    if Path(name).is_dir():
        raise UsageError(f"{name} is a directory: give a snapshot file, such as {name.rstrip('/')}/NAME.snapshot.zip")
    if Path(name).exists():
        return _read(Path(name))
    if not name.isalnum():  # a run's id has neither dot nor slash
        raise UsageError(f"{name}: there is no such file")
    try:
        way = find(where, Access.VIEWER)
    except ProbeError as error:
        raise UsageError(f"{name}: there is no such file, nor a collector that may have such a run: {error}") from None
    with tempfile.TemporaryDirectory(prefix="cvmprobe-") as folder:
        path = Path(folder) / "run.snapshot.zip"

        async def fetch() -> None:
            async with way.client() as client:
                form = SnapshotFormat.ZIP
                await export(client.export_snapshot(name, TimeRange(), with_samples=False, snapshot_format=form), path)

        asyncio.run(fetch())
        return _read(path)


def _read(path: Path) -> Side:
    from cvmprobe.store.snapshot import read_snapshot

    snapshot = read_snapshot(path)
    return Side(series(snapshot.windows(), snapshot.manifest.runs), _conditions(snapshot.manifest))


def _conditions(manifest: Manifest) -> dict[str, str]:
    """Return what every figure of a snapshot was measured under."""
    kernels = {hello.environment.value("kernel") or "unknown" for hello in manifest.nodes.values()}
    scales = {f"{run.scale:g}" for run in manifest.runs}
    return {"kernel": ", ".join(sorted(kernels)), "scale": ", ".join(sorted(scales))}
