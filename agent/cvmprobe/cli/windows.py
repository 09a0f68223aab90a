"""Windows as the rows of a table, and wall times as people read them."""

import datetime as dt
from collections.abc import Callable, Sequence

from rich.table import Table

from cvmprobe.cli.figures import Figures, figures_of_window, labels, measurement
from cvmprobe.cli.output import DASH, Column, tabulate
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


def _bytes(figures: Figures) -> str:
    return DASH if figures.bytes_per_s is None else f"{figures.bytes_per_s * 1e-6:,.2f}"


def _operations(figures: Figures) -> str:
    return DASH if figures.operations_per_s is None else f"{figures.operations_per_s:,.0f}"


def _point(figures: Figures, q: float) -> str:
    return f"{figures.quantiles[q] / 1_000:,.1f}" if q in figures.quantiles else DASH


def window_columns(label: Callable[[Window], str]) -> tuple[Column[Window], ...]:
    """Return the columns of a table of windows; ``label`` names what was measured."""
    return (
        Column("window end", lambda window: time_of_day(window.end_unix_ms)),
        Column("length [s]", lambda window: f"{window.duration_ns / 1e9:.2f}", right=True),
        Column("measurement", label),
        Column("from", lambda window: str(window.instance.source)),
        Column("to", lambda window: str(window.instance.target)),
        Column("path", lambda window: window.instance.path or DASH),
        Column("phase", lambda window: window.phase),
        Column("throughput [MB/s]", lambda window: _bytes(figures_of_window(window)), right=True),
        Column("operations [1/s]", lambda window: _operations(figures_of_window(window)), right=True),
        Column("p50 [µs]", lambda window: _point(figures_of_window(window), 0.5), right=True),
        Column("p90 [µs]", lambda window: _point(figures_of_window(window), 0.9), right=True),
        Column("p99 [µs]", lambda window: _point(figures_of_window(window), 0.99), right=True),
        Column("flags", lambda window: ", ".join(sorted(window.flags)) or DASH),
    )


def window_table(windows: Sequence[Window]) -> Table:
    """Return a table of windows, in which those of one probe are told apart by what differs."""
    names = labels([measurement(window.instance) for window in windows])
    return tabulate(window_columns(lambda window: names[measurement(window.instance)]), windows)
