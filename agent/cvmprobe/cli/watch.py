"""cvmprobe watch: windows as they are cut, from a collector or from one agent itself."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live

from cvmprobe.cli.endpoint import CaFileOption, CollectorOption, Connection, TokenFileOption, find
from cvmprobe.cli.figures import Measurement, measurement
from cvmprobe.cli.output import Format, FormatOption, RecordStream, note
from cvmprobe.cli.records import METRIC_KEYS, metric_records, window_record
from cvmprobe.cli.selection import NodeOption, PathOption, ProbeOption, TargetOption, selection
from cvmprobe.cli.windows import window_columns, window_table
from cvmprobe.errors import UsageError
from cvmprobe.model.query import Missed, Selection
from cvmprobe.model.window import Window
from cvmprobe.wire.client import ProbeClient

__all__ = ["HELP", "watch"]

HELP: Final = """
Print windows as they are cut, until Ctrl-C.

On a terminal it is a table with the latest window of every measurement; elsewhere one line each.

Watch everything; or ask one agent itself, not the collector; or feed a program:

    cvmprobe watch

    cvmprobe watch --agent local-a

    cvmprobe watch --probe tcp_rr -o json | jq .counters
"""

_STALE_S: Final = 60.0  # a measurement that has been silent for so long leaves the table


def watch(
    agent: Annotated[
        str | None, typer.Option(metavar="NODE", help="Watch this agent's own service on loopback.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many windows.")] = None,
    node: NodeOption = None,
    probe: ProbeOption = None,
    path: PathOption = None,
    target: TargetOption = None,
    form: FormatOption = Format.TABLE,
    collector: CollectorOption = None,
    ca_file: CaFileOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Watch until Ctrl-C, or until ``count`` windows have come."""
    connection = find(collector, ca_file, token_file)
    asyncio.run(_watch(connection, agent, selection(node, probe, path, target), count, form))


async def _watch(connection: Connection, agent: str | None, wanted: Selection, count: int | None, form: Format) -> None:
    async with connection.client() if agent is None else await _agent_client(connection, agent) as client:
        if form is Format.TABLE and sys.stdout.isatty():
            with Live(console=Console(highlight=False), auto_refresh=False) as live:
                await _show_table(_windows(client, wanted, count, live.console.print), live)
            return
        windows = _windows(client, wanted, count, note)
        if form is Format.TABLE:
            await _show_lines(windows)
        else:
            stream = RecordStream(form, METRIC_KEYS)
            async for window in windows:
                stream.write(window_record(window), metric_records(window))


async def _agent_client(connection: Connection, name: str) -> ProbeClient:
    """Return a client of the agent's own service; the collector knows its port."""
    async with connection.client() as client:
        nodes = await client.list_nodes()
    known = {str(node.endpoint): node for node in nodes} | {node.endpoint.node: node for node in reversed(nodes)}
    if name not in known:
        raise UsageError(
            f"--agent {name!r}: no such node; there are: {', '.join(str(node.endpoint) for node in nodes)}"
        )
    found = known[name]
    if not found.probe_service_port:
        raise UsageError(
            f"--agent {name!r}: {found.endpoint} serves nobody itself; watch it at the collector: --node {name}"
        )
    return connection.client(f"127.0.0.1:{found.probe_service_port}", found.endpoint.server_name)


async def _windows(
    client: ProbeClient, wanted: Selection, count: int | None, tell: Callable[[str], None]
) -> AsyncIterator[Window]:
    seen = 0
    async for item in client.watch_windows(wanted):
        if isinstance(item, Missed):
            tell(f"missed {item.count} windows: they came faster than they could be shown")
            continue
        yield item
        seen += 1
        if seen == count:
            return


async def _show_lines(windows: AsyncIterator[Window]) -> None:
    """Print one line for each window, under one header, each column at least as wide as its title."""
    columns = window_columns(lambda _: "")
    widths = [max(len(column.header), 12) for column in columns]

    def line(texts: list[str]) -> None:
        sys.stdout.write(
            "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip() + "\n"
        )
        sys.stdout.flush()

    line([column.header for column in columns])
    async for window in windows:
        line([column.cell(window) for column in columns])


async def _show_table(windows: AsyncIterator[Window], live: Live) -> None:
    """Keep a table of the latest window of every measurement on the screen."""
    latest: dict[Measurement, tuple[float, Window]] = {}
    live.update("waiting for the first window", refresh=True)
    async for window in windows:
        now = time.monotonic()
        latest[measurement(window.instance)] = now, window
        latest = {key: (seen, kept) for key, (seen, kept) in latest.items() if now - seen <= _STALE_S}
        live.update(window_table(sorted((kept for _, kept in latest.values()), key=_order)), refresh=True)


def _order(window: Window) -> tuple[str, ...]:
    instance = window.instance
    return instance.probe, str(instance.source), str(instance.target), instance.path or "", str(instance.parameters)
