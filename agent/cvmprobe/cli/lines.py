"""One line for each window while a measurement by hand runs: what is known by then, at this end."""

import sys
from collections.abc import Callable
from typing import Final

from cvmprobe.cli.figures import figures_of_window
from cvmprobe.cli.output import DASH, Column, four_digits, microseconds
from cvmprobe.model.window import Window

__all__ = ["WindowLines"]

_BYTES: Final = {  # counter: title, unit, factor
    "receiver_bytes": ("received", "Gbit/s", 8e-9),
    "sent_bytes": ("sent", "Gbit/s", 8e-9),
    "reverse_receiver_bytes": ("back", "Gbit/s", 8e-9),
    "read_bytes": ("read", "MB/s", 1e-6),
    "write_bytes": ("written", "MB/s", 1e-6),
}
_COUNTS: Final = {
    "retransmitted_segments": "retransmitted",
    "timeouts": "timeouts",
    "lost_datagrams": "lost",
    "reverse_lost_datagrams": "lost back",
}
_STREAMS: Final = 8  # with more of them a line would not fit
_WIDTH: Final = 9


class WindowLines:
    """Prints windows under one header, in the columns that the first one can fill."""

    def __init__(self) -> None:
        self._columns: list[Column[Window]] = []
        self._widths: list[int] = []
        self._elapsed_ns = 0

    def write(self, window: Window) -> None:
        """Print one line, at once."""
        if not self._columns:
            self._begin(window)
        begin, self._elapsed_ns = self._elapsed_ns, self._elapsed_ns + window.duration_ns
        span = f"{begin / 1e9:.1f}-{self._elapsed_ns / 1e9:.1f}"
        self._line([span, *(column.cell(window) for column in self._columns)])

    def _begin(self, window: Window) -> None:
        self._columns = [
            *_rates(window),
            *_operations(window),
            *(_count(name, title) for name, title in _COUNTS.items() if name in window.counters),
            Column("phase", lambda each: each.phase),
            Column("flags", lambda each: ", ".join(sorted(each.flags)) or DASH),
        ]
        titles = ["seconds", *(column.header for column in self._columns)]
        self._widths = [max(len(title), _WIDTH) for title in titles]
        self._line(titles)

    def _line(self, cells: list[str]) -> None:
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
        sys.stdout.flush()


def _rates(window: Window) -> list[Column[Window]]:
    """Return the sums, each followed by its streams where they are few."""
    found = []
    for name, (title, unit, factor) in _BYTES.items():
        streams = [each for each in window.counters if each.startswith(f"{name}.")]
        shown = [name, *(streams if len(streams) <= _STREAMS else [])] if name in window.counters else []
        found += [_rate(each, title + each.removeprefix(name), unit, factor) for each in shown]
    return found


def _operations(window: Window) -> list[Column[Window]]:
    figures = figures_of_window(window)
    columns: list[Column[Window]] = []
    if figures.operations_per_s is not None:
        columns.append(Column("rate", lambda each: _plain(figures_of_window(each).operations_per_s), unit="1/s"))
    if figures.operations is not None:
        columns += [_point(0.5), _point(0.99)]
    if figures.unit_ns is not None:
        columns.append(Column("unit", lambda each: four_digits(figures_of_window(each).unit_ns), unit="ns"))
    return columns


def _plain(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _point(q: float) -> Column[Window]:
    return Column(f"p{q * 100:g}", lambda each: microseconds(figures_of_window(each).quantiles.get(q)), unit="µs")


def _rate(name: str, title: str, unit: str, factor: float) -> Column[Window]:
    return Column(title, _cell(name, lambda count, seconds: f"{count / seconds * factor:,.3f}"), unit=unit)


def _count(name: str, title: str) -> Column[Window]:
    return Column(title, _cell(name, lambda count, _: f"{count:,d}"))


def _cell(name: str, write: Callable[[int, float], str]) -> Callable[[Window], str]:
    def cell(window: Window) -> str:
        count = window.counters.get(name)
        return DASH if count is None or not window.duration_ns else write(count, window.duration_ns / 1e9)

    return cell
