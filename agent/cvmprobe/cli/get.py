"""cvmprobe get: ask a collector what there is."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

import typer
from rich.table import Table

from cvmprobe.analysis.pools import disagreements
from cvmprobe.cli.figures import labels, measurement, short
from cvmprobe.cli.find import Where, ask, find, located
from cvmprobe.cli.output import DASH, Column, Format, FormatOption, note, show, tabulate
from cvmprobe.cli.records import metric_records, node_record, probe_record, run_record, window_record
from cvmprobe.cli.selection import NodeOption, PathOption, ProbeOption, TargetOption, selection, since_range
from cvmprobe.cli.windows import clock, window_table
from cvmprobe.model.query import NodeStatus, ProbeStatus
from cvmprobe.model.run import Run
from cvmprobe.model.window import Window
from cvmprobe.wire.identity import Access

__all__ = ["app", "get_nodes", "get_probes", "get_runs", "get_windows"]

app = typer.Typer(help="Ask a collector for its nodes, probes, windows or runs.", no_args_is_help=True)


def _count(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _tee(node: NodeStatus) -> str:
    return DASH if node.environment is None else node.environment.tee.kind


def _fact(node: NodeStatus, name: str) -> str:
    return DASH if node.environment is None else node.environment.value(name) or DASH


# The accounts of delivery, in batches: numbered = stored + pending + lost.
_NODES: tuple[Column[NodeStatus], ...] = (
    Column("endpoint", lambda node: str(node.endpoint)),
    Column("state", lambda node: node.attachment),
    Column("version", lambda node: node.version),
    Column("TEE", _tee),
    Column("kernel", lambda node: _fact(node, "kernel")),
    Column("numbered", lambda node: _count(node.numbered), right=True),
    Column("stored", lambda node: str(node.stored), right=True),
    Column("pending", lambda node: _count(node.pending), right=True),
    Column("lost", lambda node: _count(node.lost), right=True),
)
_RUNS: tuple[Column[Run], ...] = (
    Column("run", lambda run: run.run_id),
    Column("suite", lambda run: run.suite),
    Column("scale", lambda run: f"{run.scale:g}", right=True),
    Column("state", lambda run: run.state),
    Column("started", lambda run: clock(run.started_unix_ms)),
    Column("ended", lambda run: clock(run.ended_unix_ms)),
    Column("leases ended", lambda run: f"{run.leases_ended}/{run.leases_total}", right=True),
    Column("detail", lambda run: run.detail or DASH),
)


def _probe_table(found: Sequence[ProbeStatus]) -> Table:
    names = labels([measurement(status.instance) for status in found])
    columns: tuple[Column[ProbeStatus], ...] = (
        Column("probe", lambda status: status.instance.probe),
        Column("parameters", lambda status: names[measurement(status.instance)] or DASH),
        Column("from", lambda status: short(status.instance.source)),
        Column("to", lambda status: short(status.instance.target)),
        Column("path", lambda status: status.instance.path or DASH),
        Column("repeat", lambda status: str(status.instance.repeat), right=True),
        Column("windows", lambda status: str(status.windows), right=True),
        Column("last window", lambda status: clock(status.last_end_unix_ms or None)),
    )
    return tabulate(columns, found)


@app.command("nodes")
@located
def get_nodes(
    where: Where,
    form: FormatOption = Format.TABLE,
) -> None:
    """Print every endpoint: whether its agent is there, what it is, and the accounts of its delivery.

    Example: cvmprobe get nodes -o yaml    (with all facts of each node, and where each comes from)
    """
    nodes = ask(find(where, Access.VIEWER), lambda client: client.list_nodes())
    show(form, tabulate(_NODES, nodes), [node_record(node) for node in nodes])
    for line in disagreements({node.endpoint.node: node.environment for node in nodes if node.environment}):
        note(line)


@app.command("probes")
@located
def get_probes(
    where: Where,
    node: NodeOption = None,
    probe: ProbeOption = None,
    path: PathOption = None,
    target: TargetOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Print every probe instance that runs, or last ran.

    Example: cvmprobe get probes --node local-a
    """
    wanted = selection(node, probe, path, target)
    found = ask(find(where, Access.VIEWER), lambda client: client.list_probes(wanted))
    show(form, _probe_table(found), [probe_record(status) for status in found])
    _explain(found)


@app.command("windows")
@located
def get_windows(
    where: Where,
    since: Annotated[str | None, typer.Option(metavar="SPAN", help="Only the last 90s, 5m, 2h or 1d.")] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only windows of this run.")] = None,
    node: NodeOption = None,
    probe: ProbeOption = None,
    path: PathOption = None,
    target: TargetOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Print stored windows. csv has one row per window and metric; json and yaml keep the histograms whole.

    Example: cvmprobe get windows --since 5m --probe tcp_rr -o csv > rr.csv
    """
    wanted, span = selection(node, probe, path, target, run), since_range(since)
    windows = ask(find(where, Access.VIEWER), lambda client: _collect(client.query_windows(wanted, span)))
    flat = [row for window in windows for row in metric_records(window)]
    show(form, window_table(windows), [window_record(window) for window in windows], flat)
    _explain(windows)


@app.command("runs")
@located
def get_runs(
    where: Where,
    form: FormatOption = Format.TABLE,
) -> None:
    """Print all runs, the newest first.

    Example: cvmprobe get runs -o json
    """
    runs = ask(find(where, Access.VIEWER), lambda client: client.list_runs())
    show(form, tabulate(_RUNS, runs), [run_record(run) for run in runs])


def _explain(found: Sequence[object]) -> None:
    if not found:
        note("nothing fits; what there is: cvmprobe get nodes, cvmprobe get probes")


async def _collect(windows: AsyncIterator[Window]) -> list[Window]:
    return [window async for window in windows]
