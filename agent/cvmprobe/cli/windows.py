"""Windows as the rows of a table, and wall times as people read them."""

import datetime as dt
from collections.abc import Callable, Sequence

from rich.table import Table

from cvmprobe.cli.figures import POINTS, Figures, figures_of_window, labels, measurement, short
from cvmprobe.cli.output import DASH, Column, microseconds, tabulate
from cvmprobe.model.endpoint import VolumeTarget
from cvmprobe.model.window import Window

__all__ = ["clock", "time_of_day", "window_columns", "window_table"]


def clock(unix_ms: int | None) -> str:
    """Return a wall time in the zone of this machine; a dash for None."""
    return DASH if unix_ms is None else f"{_local(unix_ms):%Y-%m-%d %H:%M:%S}"


def time_of_day(unix_ms: int) -> str:
    """Return the time of day to the millisecond, in the zone of this machine."""
    return f"{_local(unix_ms):%H:%M:%S}.{unix_ms % 1_000:03d}"


def _local(unix_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_ms // 1_000, dt.UTC).astimezone()


def _throughput(window: Window) -> str:
    """Write bits for a network and bytes for a disk, as the tables of a run do."""
    bytes_per_s = figures_of_window(window).bytes_per_s
    if bytes_per_s is None:
        return DASH
    disk = isinstance(window.instance.target, VolumeTarget)
    return f"{bytes_per_s * 1e-6:,.1f} MB/s" if disk else f"{bytes_per_s * 8e-9:.2f} Gbit/s"


def _operations(figures: Figures) -> str:
    return DASH if figures.operations_per_s is None else f"{figures.operations_per_s:,.0f}"


def _point(q: float) -> Column[Window]:
    return Column(
        f"p{q * 100:g}", lambda window: microseconds(figures_of_window(window).quantiles.get(q)), unit="µs", right=True
    )


def window_columns(label: Callable[[Window], str]) -> tuple[Column[Window], ...]:
    """Return the columns of a table of windows; ``label`` tells those of one probe apart."""
    return (
        Column("window end", lambda window: time_of_day(window.end_unix_ms)),
        Column("measurement", lambda window: f"{window.instance.probe} {label(window)}".strip()),
        Column("from", lambda window: short(window.instance.source)),
        Column("to", lambda window: short(window.instance.target)),
        Column("path", lambda window: window.instance.path or DASH),
        Column("phase", lambda window: window.phase),
        Column("throughput", _throughput, right=True),
        Column("operations", lambda window: _operations(figures_of_window(window)), unit="1/s", right=True),
        *(_point(q) for q in POINTS),
        Column("flags", lambda window: ", ".join(sorted(window.flags)) or DASH),
    )


def window_table(windows: Sequence[Window]) -> Table:
    """Return a table of windows, in which those of one probe are told apart by what differs."""
    names = labels([measurement(window.instance) for window in windows])
    return tabulate(window_columns(lambda window: names[measurement(window.instance)]), windows)
