"""``windows.parquet`` as a file of its own: who is in it, its rows, and the same as JSON or CSV."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import StreamKey
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.model.query import TimeRange
from cvmprobe.store.database import Connection, connect
from cvmprobe.store.rows import WINDOWS, Row
from cvmprobe.store.sql import literal

__all__ = ["contents", "table_rows", "write_csv", "write_json"]

FETCH_ROWS = 4096


def contents(table: Path) -> tuple[TimeRange, frozenset[StreamKey]]:
    """Return the range in which the windows end, open if there is none, and the streams they are from."""
    with _opened(table) as connection:
        spans = _rows(connection, table, "SELECT min(end_unix_ms), max(end_unix_ms) + 1 FROM read_parquet(?)")
        ((start, end),) = spans
        keys = _rows(connection, table, "SELECT DISTINCT cluster, node, role, boot_id, start_id FROM read_parquet(?)")
        return TimeRange(start, end), frozenset(
            StreamKey(cluster, Endpoint(node, Role(role)), boot_id, start_id)
            for cluster, node, role, boot_id, start_id in keys
        )


def table_rows(table: Path, rows: int, query: str, values: list[Any]) -> Iterator[Row]:
    """Yield a query's rows; StoreError unless the table has our columns and as many ``rows`` as stated."""
    with _opened(table) as connection:
        described = _rows(connection, table, "DESCRIBE SELECT * FROM read_parquet(?)")
        if {name: kind for name, kind, *_ in described} != {name: kind.split()[0] for name, kind in WINDOWS.items()}:
            raise StoreError(f"its member {table.name} has other columns than cvmprobe writes")
        ((counted,),) = _rows(connection, table, "SELECT num_rows FROM parquet_file_metadata(?)")
        if counted != rows:
            raise StoreError(f"its member {table.name} has {counted} rows, not {rows}")
        yield from _rows(connection, table, query, values)


def write_json(manifest: bytes, table: Path, to: IO[bytes]) -> None:
    """Write one object: the manifest and, under ``windows``, one object per row of the table, a line each."""
    query = """
        SELECT to_json(w)::VARCHAR FROM (
            SELECT * REPLACE (parameters::JSON AS parameters, facts::JSON AS facts) FROM read_parquet(?)
        ) w"""
    to.write(b'{"manifest": ' + manifest.rstrip() + b',\n"windows": [')
    separator = b"\n"
    with _opened(table) as connection:
        for (text,) in _rows(connection, table, query):
            to.write(separator + text.encode())
            separator = b",\n"
    to.write(b"\n]}\n")


def write_csv(table: Path, to: Path) -> None:
    """Write the table with a header line; lists are written as JSON."""
    query = f"""
        COPY (
            SELECT * REPLACE (to_json(bucket_indices)::VARCHAR AS bucket_indices,
                to_json(bucket_counts)::VARCHAR AS bucket_counts)
            FROM read_parquet(?)
        ) TO {literal(str(to))} (FORMAT csv, HEADER)"""
    with _opened(table) as connection:
        connection.execute(query, [str(table)])


def _opened(table: Path) -> closing[Connection]:
    return closing(connect(table.with_suffix(".spill")))


def _rows(connection: Connection, table: Path, query: str, values: Iterable[Any] = ()) -> Iterator[Row]:
    """Yield the rows of a query whose first parameter is the table."""
    connection.execute(query, [str(table), *values])
    while found := connection.fetchmany(FETCH_ROWS):
        yield from found
