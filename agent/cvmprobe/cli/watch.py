"""cvmprobe watch: windows as they are cut, from a collector or from one agent itself."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live

from cvmprobe.cli.figures import Measurement, measurement
from cvmprobe.cli.find import Where, find, located
from cvmprobe.cli.follow import follow
from cvmprobe.cli.line import Line, Way
from cvmprobe.cli.output import Format, FormatOption, RecordStream, note
from cvmprobe.cli.records import METRIC_KEYS, metric_records, window_record
from cvmprobe.cli.selection import NodeOption, PathOption, ProbeOption, TargetOption, selection
from cvmprobe.cli.windows import window_columns, window_table
from cvmprobe.model.query import Selection
from cvmprobe.model.window import Window
from cvmprobe.wire.identity import Access

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


@located
def watch(
    where: Where,
    agent: Annotated[
        str | None, typer.Option(metavar="NODE", help="Watch the agent of this node itself, not the collector.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many windows.")] = None,
    node: NodeOption = None,
    probe: ProbeOption = None,
    path: PathOption = None,
    target: TargetOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Watch until Ctrl-C, or until ``count`` windows have come."""
    way = find(where, Access.VIEWER)
    asyncio.run(_watch(way, agent, selection(node, probe, path, target), count, form))


async def _watch(way: Way, agent: str | None, wanted: Selection, count: int | None, form: Format) -> None:
    def windows(tell: Callable[[str], None]) -> AsyncGenerator[Window, None]:
        opener = way.client if agent is None else partial(way.agent, agent)
        line = Line(opener, lasting=way.lasting, tell=tell)
        return _some(follow(line, wanted, tell, stored=agent is None), count)

    if form is Format.TABLE and sys.stdout.isatty():
        with Live(console=Console(highlight=False), auto_refresh=False) as live:
            async with aclosing(windows(partial(live.console.print, markup=False))) as shown:
                await _show_table(shown, live)
        return
    async with aclosing(windows(note)) as shown:
        if form is Format.TABLE:
            await _show_lines(shown)
        else:
            stream = RecordStream(form, METRIC_KEYS)
            async for window in shown:
                stream.write(window_record(window), metric_records(window))


async def _some(windows: AsyncGenerator[Window, None], count: int | None) -> AsyncGenerator[Window, None]:
    """Yield ``count`` windows, or all for None."""
    seen = 0
    async with aclosing(windows):
        async for window in windows:
            yield window
            seen += 1
            if seen == count:
                return


async def _show_lines(windows: AsyncIterator[Window]) -> None:
    """Print one line for each window, under one header, each column at least as wide as its title."""
    columns = window_columns(lambda _: "")
    header = [column.header for column in columns]
    widths = [max(len(title), 12) for title in header]

    def line(texts: list[str]) -> None:
        sys.stdout.write(
            "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip() + "\n"
        )
        sys.stdout.flush()

    async for window in windows:
        if header:
            line(header)
            header = []
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
