"""What a verb prints: a table for people, or json, yaml and csv for programs."""

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Generic, TypeVar

import msgspec
import typer
import yaml
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

__all__ = [
    "DASH",
    "Column",
    "Format",
    "FormatOption",
    "Record",
    "RecordStream",
    "aside",
    "four_digits",
    "microseconds",
    "note",
    "notes_console",
    "show",
    "tabulate",
]

Record = Mapping[str, object]
_Row = TypeVar("_Row")
DASH: Final = "-"
_UNBOUNDED: Final = 10_000
_GAP: Final = 2  # between two columns
_LONG_WORD: Final = 20  # longer words may be folded
_GROUPED_FROM: Final = 1_000  # whole numbers from here on, their digits in groups of three


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


FormatOption = Annotated[Format, typer.Option("--output-format", "-o", help="How to print the result.")]


@dataclass(frozen=True, slots=True)
class Column(Generic[_Row]):
    """One column of a table: its title and unit, and how a row's cell is written."""

    title: str
    cell: Callable[[_Row], str]
    unit: str = ""
    right: bool = False

    @property
    def header(self) -> str:
        """Title and unit on one line."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


def microseconds(value_ns: float | None) -> str:
    """Write nanoseconds as microseconds, to a tenth below a thousand; a dash for None."""
    if value_ns is None:
        return DASH
    value = value_ns / 1_000
    return f"{value:,.0f}" if value >= _GROUPED_FROM else f"{value:,.1f}"


def four_digits(value: float | None) -> str:
    """Write four significant digits, or all before the point where there are more; a dash for None."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= _GROUPED_FROM else f"{value:.4g}"


class _Fitting(Table):
    """A table; on a screen too narrow for its words and numbers its rows stand one below the other instead."""

    least_width: int = 0
    entries: Sequence[Sequence[tuple[str, str]]] = ()  # of each row the headers and cells

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what fits."""
        if options.max_width >= self.least_width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield Text(str(self.title))
        for entry in self.entries:
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            for header, cell in entry:
                grid.add_row(Text(header), Text(cell))
            yield grid
            yield Text()


def tabulate(columns: Sequence[Column[_Row]], rows: Iterable[_Row], title: str | None = None) -> Table:
    """Return a table of ``rows``."""
    table = _Fitting(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    cells = [[column.cell(row) for column in columns] for row in rows]
    with_units = any(column.unit for column in columns)
    table.least_width = -_GAP
    for place, column in enumerate(columns):
        unit = f"[{column.unit}]" if column.unit else ""
        header = f"{column.title}\n{unit}" if with_units else column.title
        texts = [header, *(row[place] for row in cells)]
        words = [word for text in texts for word in (text.splitlines() if column.right else text.split())]
        whole = max(map(len, words), default=0)
        least = whole if column.right else min(whole, _LONG_WORD)
        table.least_width += least + _GAP
        # On a narrow screen text is folded between words; a number stays whole.
        table.add_column(
            Text(header),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.right,
            vertical="top",
            min_width=least,
        )
    for row in cells:
        table.add_row(*map(Text, row))
    headers = [column.header for column in columns]
    table.entries = [list(zip(headers, row, strict=True)) for row in cells]
    return table


def show(
    form: Format, table: RenderableType, whole: Record | Sequence[Record], flat: Sequence[Record] | None = None
) -> None:
    """Print a result on stdout: ``table`` for people, ``whole`` for programs, or ``flat`` for csv."""
    if form is Format.TABLE:
        _print_whole(table)
    elif form is Format.JSON:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n")
    elif form is Format.YAML:
        sys.stdout.write(yaml.safe_dump(msgspec.to_builtins(whole), sort_keys=False, allow_unicode=True))
    elif flat is not None:
        _write_csv(flat)
    else:
        _write_csv([whole] if isinstance(whole, Mapping) else whole)


def notes_console() -> Console:
    """Return the console for what is not the result: progress and advice go to stderr."""
    return Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Tell a person something that is not part of the result."""
    notes_console().print(text, soft_wrap=True, markup=False)


def aside(text: str) -> None:
    """Tell a person something in passing, dimly."""
    notes_console().print(text, style="dim", soft_wrap=True, markup=False)


def _print_whole(table: RenderableType) -> None:
    """Print a table; into a file or a pipe nothing is cut off to fit a screen."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    wide = console.options.update(max_width=_UNBOUNDED)
    console = Console(highlight=False, width=Measurement.get(console, wide, table).maximum)
    with console.capture() as capture:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _write_csv(records: Sequence[Record]) -> None:
    rows = [dict(_flatten(record)) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _flatten(record: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ";".join(map(str, value))
        else:
            yield f"{prefix}{name}", value


class RecordStream:
    """Prints records as they come, each at once: a line of json, a document of yaml, or rows of csv."""

    def __init__(self, form: Format, names: Sequence[str]) -> None:
        self._form = form
        self._writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        if form is Format.CSV:
            self._writer.writeheader()

    def write(self, record: Record, flat: Iterable[Record]) -> None:
        """Print ``record``; csv takes its ``flat`` rows."""
        if self._form is Format.CSV:
            self._writer.writerows(dict(_flatten(row)) for row in flat)
        elif self._form is Format.YAML:
            sys.stdout.write(yaml.safe_dump(record, sort_keys=False, allow_unicode=True, explicit_start=True))
        else:
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
        sys.stdout.flush()
