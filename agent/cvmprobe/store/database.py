"""Open the database file: alone, with the right schema, and never stopped by a file that cannot be read."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path

import duckdb

from cvmprobe.errors import StoreError
from cvmprobe.store.rows import SAMPLES, WINDOWS
from cvmprobe.store.sql import literal

__all__ = ["Connection", "connect", "first_line", "open_database", "suspect", "used_bytes"]

Connection = duckdb.DuckDBPyConnection

SCHEMA_VERSION = 1
HEADER_BYTES = 3 * 4096  # of a DuckDB file, before its blocks
ROW_GROUP_SIZE = 2048  # rows that are freed together; the smallest there is, so that little more goes than must
SETTINGS: Mapping[str, str | bool | int] = {
    "memory_limit": "512MiB",
    "threads": 2,  # the engines on this node need their CPUs more
    "autoinstall_known_extensions": False,  # nothing is fetched, ever
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}
TABLES: Mapping[str, Mapping[str, str]] = {
    "about": {"schema_version": "INTEGER NOT NULL"},
    "windows": WINDOWS,
    "samples": SAMPLES,
    "runs": {"run_id": "VARCHAR NOT NULL", "started_unix_ms": "UBIGINT NOT NULL", "document": "VARCHAR NOT NULL"},
    # One row a start of an agent: the last number it gave out, and how it introduced itself.
    "streams": {
        "stream": "INTEGER NOT NULL",
        "cluster": "VARCHAR NOT NULL",
        "node": "VARCHAR NOT NULL",
        "role": "VARCHAR NOT NULL",
        "boot_id": "VARCHAR NOT NULL",
        "start_id": "VARCHAR NOT NULL",
        "last_seq": "UBIGINT",
        "hello": "VARCHAR",
    },
    # Which batches are stored, as ranges: integers alone, so that the update of every commit is made in place.
    "batches": {"stream": "INTEGER NOT NULL", "first_seq": "UBIGINT NOT NULL", "last_seq": "UBIGINT NOT NULL"},
    "gaps": {
        "stream": "INTEGER NOT NULL",
        "first_seq": "UBIGINT NOT NULL",
        "last_seq": "UBIGINT",
        "reason": "VARCHAR NOT NULL",
        "since_unix_ms": "UBIGINT NOT NULL",
    },
}
SMALL_TABLES = ("streams", "batches", "gaps", "runs")
DAMAGED = "Corrupt database file"
# What the system says where nothing is wrong with the file itself.
NOT_THE_FILE = (
    "set lock",
    "Permission denied",
    "No space left",
    "Too many open files",
    "Read-only file system",
    "already attached",
    "Is a directory",
    "No such file",
    "Input/output error",
)

_LOG = logging.getLogger(__name__)


class _UnreadableError(Exception):
    """The file is there, and is no store of ours."""


def connect(spill: Path) -> Connection:
    """Return a connection without tables; it fetches nothing from anywhere and sorts what is large in ``spill``."""
    return duckdb.connect(config={**SETTINGS, "temp_directory": str(spill)})


def open_database(path: Path) -> tuple[Connection, str]:
    """Open or make the database; returns it and, where a damaged file was put aside, one line that says so.

    A file that cannot be read keeps its bytes: it is renamed to ``<name>.unreadable-<n>``, with the reason in a
    text file beside it, and a new one begins. Every byte is read only of a file that was suspected, for that takes
    its time. StoreError where the file is in use or the system refuses.
    """
    try:
        return _open(path), ""
    except _UnreadableError as error:
        notice = _put_aside(path, str(error))
        _LOG.warning("%s", notice)
    try:
        return _open(path), notice
    except _UnreadableError as error:
        raise StoreError(f"store {path}: {error}") from error


def _open(path: Path) -> Connection:
    fresh = not path.exists()
    connection = connect(path.with_name(f"{path.name}.tmp"))
    try:
        connection.execute(f"ATTACH {literal(str(path))} AS store (ROW_GROUP_SIZE {ROW_GROUP_SIZE})")
        _check(connection, path)
    except (duckdb.Error, _UnreadableError) as error:
        connection.close()
        reason = first_line(error)
        if fresh or any(words in reason for words in NOT_THE_FILE):
            raise StoreError(f"store {path}: cannot be opened: {reason}") from error
        raise _UnreadableError(reason) from error
    return connection


def _check(connection: Connection, path: Path) -> None:
    """Make the tables of a new file; refuse another program's, another version's, or a truncated one."""
    found = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'store'").fetchall()
    if not found:
        _make_tables(connection)
        return
    if ("about",) not in found:
        raise _UnreadableError("it holds another program's tables")
    ((version,),) = connection.execute("SELECT max(schema_version) FROM store.about").fetchall()
    if version != SCHEMA_VERSION:
        raise _UnreadableError(f"its schema version is {version}, and this program reads {SCHEMA_VERSION}")
    suspected = _mark_of(path).exists()
    for table in TABLES if suspected else SMALL_TABLES:
        connection.execute(f"SELECT sum(hash(whole)) FROM store.{table} whole").fetchall()
    _mark_of(path).unlink(missing_ok=True)
    size, least = path.stat().st_size, HEADER_BYTES + used_bytes(connection)
    if size < least:
        raise _UnreadableError(f"it is truncated: {size} bytes, of at least {least}")


def suspect(path: Path, error: duckdb.Error) -> None:
    """Have the next start read every byte of the file, if the error says that some of it is damaged."""
    if DAMAGED in str(error):
        with suppress(OSError):  # a full disk must not hide the error itself
            _mark_of(path).write_text(f"{first_line(error)}\n", encoding="utf-8")


def _make_tables(connection: Connection) -> None:
    connection.execute("BEGIN")
    for table, kinds in TABLES.items():
        names = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        connection.execute(f"CREATE TABLE store.{table} ({names})")
    connection.execute("INSERT INTO store.about VALUES (?)", [SCHEMA_VERSION])
    connection.execute("COMMIT")


def used_bytes(connection: Connection) -> int:
    """Return the bytes of the file's blocks that hold data; the others are free for the next rows."""
    query = "SELECT block_size * used_blocks FROM pragma_database_size() WHERE database_name = 'store'"
    ((size,),) = connection.execute(query).fetchall()
    return int(size)


def first_line(error: BaseException) -> str:
    """Return what the error says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _put_aside(path: Path, reason: str) -> str:
    """Rename the file and its log, and write down why."""
    aside = next(name for n in count(1) if not (name := path.with_name(f"{path.name}.unreadable-{n}")).exists())
    notice = f"store {path}: {reason}; put aside as {aside.name}, a new store begins"
    path.rename(aside)
    with suppress(FileNotFoundError):
        _log_of(path).rename(_log_of(aside))
    _mark_of(path).unlink(missing_ok=True)
    with suppress(OSError):  # a full disk must not stop the start
        aside.with_name(f"{aside.name}.txt").write_text(f"{reason}\n", encoding="utf-8")
    return notice


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _mark_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.suspected")
