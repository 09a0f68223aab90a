"""Output: every format is readable by its own reader, and a pipe gets whole lines without colour."""

import csv
import io
import json

import pytest
import yaml
from rich.console import Console

from cvmprobe.cli.output import Column, Format, RecordStream, show, tabulate

RECORDS = [
    {"name": "a", "value": 1, "nested": {"x": None, "µ": 2.5}, "flags": ["cut", "late"]},
    {"name": "b, with comma", "value": None, "nested": {}, "flags": []},
]
TABLE = tabulate([Column("name", lambda record: record["name"])], RECORDS)


def test_json_and_yaml_keep_everything(capsys):
    show(Format.JSON, TABLE, RECORDS)
    assert json.loads(capsys.readouterr().out) == RECORDS
    show(Format.YAML, TABLE, RECORDS)
    assert yaml.safe_load(capsys.readouterr().out) == RECORDS


def test_csv_has_dotted_columns_and_all_of_them(capsys):
    show(Format.CSV, TABLE, RECORDS)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["name", "value", "nested.x", "nested.µ", "flags"]
    assert rows[0] == {"name": "a", "value": "1", "nested.x": "", "nested.µ": "2.5", "flags": "cut;late"}
    assert rows[1]["name"] == "b, with comma"


def test_csv_takes_the_flat_rows_where_given(capsys):
    show(Format.CSV, TABLE, {"whole": 1}, [{"metric": "x"}])
    assert capsys.readouterr().out == "metric\nx\n"


def test_a_table_in_a_pipe_is_neither_cut_nor_coloured(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    wide = tabulate([Column("name", lambda r: r["name"] * 100)], RECORDS)
    show(Format.TABLE, wide, RECORDS)
    out = capsys.readouterr().out
    assert "a" * 100 in out
    assert "\x1b" not in out


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", "length [s]"])
def test_neither_a_title_nor_a_cell_is_markup(capsys, text):
    show(Format.TABLE, tabulate([Column(f"title {text}", lambda _: f"cell {text}")], RECORDS), RECORDS)
    out = capsys.readouterr().out
    assert f"title {text}" in out
    assert f"cell {text}" in out


def test_a_stream_of_records_is_readable_line_by_line(capsys):
    for form in (Format.JSON, Format.YAML, Format.CSV):
        stream = RecordStream(form, ["metric", "value"])
        for value in (1, 2):
            stream.write({"value": value}, [{"metric": "m", "value": value}])
        out = capsys.readouterr().out
        if form is Format.JSON:
            assert [json.loads(line)["value"] for line in out.splitlines()] == [1, 2]
        elif form is Format.YAML:
            assert [document["value"] for document in yaml.safe_load_all(out)] == [1, 2]
        else:
            assert out == "metric,value\nm,1\nm,2\n"


@pytest.mark.parametrize("width", [12, 30, 60, 80, 200])
def test_no_word_and_no_number_is_broken_on_a_narrow_screen(width):
    """A table that does not fit stands as one paragraph for each row, and says the same."""
    columns = [
        Column("from", lambda row: row["from"]),
        Column("path", lambda _: "inter_node host"),
        Column("rate", lambda row: row["rate"], unit="1/s", right=True),
        Column("flags", lambda _: "starved 12, pressed 3"),
    ]
    rows = [{"from": "local-a", "rate": "1,234,567"}, {"from": "local-b", "rate": "-"}]
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(tabulate(columns, rows, "tcp_rr"))
    told = capture.get().split()
    if width > 12:  # there even "path  inter_node" is too long
        assert {"tcp_rr", "local-a", "local-b", "1,234,567", "inter_node", "starved", "12,"} <= set(told)
    assert told.count("flags") == (1 if width >= 60 else 2)
