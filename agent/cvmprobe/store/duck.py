"""The store on DuckDB: one file, one writer at a time, any number of readers beside it."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import Batch, Gap, Hello, StreamKey
from cvmprobe.model.query import Selection, TimeRange
from cvmprobe.model.run import Run
from cvmprobe.model.window import SampleBlock, Window
from cvmprobe.store import EVERYTHING, FOREVER, Account
from cvmprobe.store.database import Connection, first_line, open_database, suspect, used_bytes
from cvmprobe.store.documents import NodeDocument, RunDocument
from cvmprobe.store.ledger import Ledger
from cvmprobe.store.rows import Row, batch_rows, block_rows, windows_from
from cvmprobe.store.sql import Condition, copy_to_parquet, select_operations, select_windows, where
from cvmprobe.store.streams import StreamState, forget_streams, load_streams, save_stream

__all__ = ["DuckStore"]

FETCH_ROWS = 4096
BLOCK_TIME = "unix_ns // 1000000"
PRUNE_PASSES = 8  # space comes back in groups of rows, so one pass may free less than it deletes
REFUSALS = (duckdb.Error, ValueError, TypeError, OverflowError)  # how a value is refused on its way into a table


class DuckStore:
    """A ``Store`` in one DuckDB file; its methods do what ``Store`` says.

    Opening never fails because of what is in the file: one that cannot be read is put aside, and ``notice``
    then says so in one line (empty otherwise). StoreError when another process has it, or the system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notice = ""
        self._lock = threading.RLock()  # one writer; and no reader begins while the file is opened anew
        self._closed = False
        self._connection: Connection | None = None
        self._streams: dict[StreamKey, StreamState] = {}
        self._connected()

    # Batches and gaps

    def commit(self, stream: StreamKey, batches: Sequence[Batch]) -> None:
        """Store batches in one transaction, each (stream, seq) once."""
        with self._lock:
            ledger = self._ledger(stream)
            new = {batch.seq: batch for batch in batches if not ledger.holds(batch.seq)}
            if not new:
                return
            if min(new) < 1:
                raise StoreError(f"batch {min(new)} of {stream.endpoint}: numbers begin at 1; nothing is stored")
            rows = (row for batch in new.values() for row in batch_rows(stream, batch))
            self._settle(stream, ledger.with_stored(new), rows)

    def stored_seq(self, stream: StreamKey) -> int:
        """Return the highest settled seq; 0: none."""
        return self._ledger(stream).stored_seq

    def account(self, stream: StreamKey) -> Account:
        """Return the bookkeeping of the stream."""
        return self._ledger(stream).account

    def open_gap(self, gap: Gap) -> None:
        """Record batches as missing."""
        with self._lock:
            self._settle(gap.stream, self._ledger(gap.stream).with_gap(gap))

    def close_gap(self, stream: StreamKey) -> None:
        """Take back the stream's open gap."""
        with self._lock:
            self._settle(stream, self._ledger(stream).without_open_gap())

    def end_stream(self, stream: StreamKey, last_seq: int) -> None:
        """Keep the last number the agent gave out."""
        with self._lock:
            self._settle(stream, self._ledger(stream).ended(last_seq))

    def gaps(self) -> tuple[Gap, ...]:
        """Return all that is missing."""
        with self._lock:
            self._connected()
            return tuple(gap for state in self._streams.values() for gap in state.ledger.gaps)

    def _state(self, stream: StreamKey) -> StreamState | None:
        with self._lock:
            self._connected()  # what is known of the streams is as new as the connection
            return self._streams.get(stream)

    def _ledger(self, stream: StreamKey) -> Ledger:
        state = self._state(stream)
        return state.ledger if state else Ledger()

    def _settle(self, stream: StreamKey, ledger: Ledger, rows: Iterable[Row] = ()) -> None:
        """Write a stream's new ledger, and the rows that go with it, in one transaction."""
        old = self._state(stream)
        if ledger == (old.ledger if old else Ledger()):
            return
        new = StreamState(old.number if old else self._next_number(), ledger)
        with self._transaction() as connection:
            with connection.appender("store.windows") as appender:
                appender.append_rows(rows)
            save_stream(connection, stream, old, new)
        self._streams[stream] = new

    def _next_number(self) -> int:
        return max((state.number for state in self._streams.values()), default=0) + 1

    # Windows and samples

    def windows(self, selection: Selection = EVERYTHING, time_range: TimeRange = FOREVER) -> Iterator[Window]:
        """Yield stored windows in order of their end."""
        condition, values = self._where(selection, time_range, "end_unix_ms")
        yield from windows_from(self._rows(select_windows("store.windows", condition), values))

    def add_samples(self, stream: StreamKey, block: SampleBlock) -> None:
        """Store raw operations."""
        with self._transaction() as connection, connection.appender("store.samples") as appender:
            appender.append_rows(block_rows(stream, block))

    def export_windows(self, path: Path, selection: Selection, time_range: TimeRange) -> int:
        """Write ``windows.parquet``; return the number of rows."""
        condition, values = self._where(selection, time_range, "end_unix_ms")
        return self._copy(select_windows("store.windows", condition), values, path)

    def export_samples(self, path: Path, selection: Selection, time_range: TimeRange) -> tuple[int, int]:
        """Write ``samples.parquet``; return the number of rows, and of samples lost."""
        condition, values = self._where(selection, time_range, BLOCK_TIME)
        ((lost,),) = self._rows(f"SELECT coalesce(sum(lost), 0) FROM store.samples {condition}", values)
        return self._copy(select_operations(condition), values, path), int(lost)

    def _copy(self, query: str, values: list[Any], path: Path) -> int:
        ((count,),) = self._rows(copy_to_parquet(query, path), values)
        return int(count)

    def _where(self, selection: Selection, time_range: TimeRange, time: str) -> Condition:
        lease_ids = None
        if selection.run_id is not None:
            found = self._rows("SELECT document FROM store.runs WHERE run_id = ?", [selection.run_id])
            lease_ids = [record.lease_id for (text,) in found for record in _run(text).leases]
        return where(selection, time_range, lease_ids, time)

    # Runs and nodes

    def put_run(self, run: Run) -> None:
        """Keep a run as it stands."""
        document = msgspec.json.encode(RunDocument.of(run)).decode()
        with self._transaction() as connection:
            connection.execute("DELETE FROM store.runs WHERE run_id = ?", [run.run_id])
            connection.execute("INSERT INTO store.runs VALUES (?, ?, ?)", [run.run_id, run.started_unix_ms, document])

    def runs(self) -> tuple[Run, ...]:
        """Return all runs, the latest first."""
        rows = self._rows("SELECT document FROM store.runs ORDER BY started_unix_ms DESC, run_id", [])
        return tuple(_run(text) for (text,) in rows)

    def put_node(self, stream: StreamKey, hello: Hello) -> None:
        """Keep how the agent of this stream introduced itself."""
        with self._lock:
            old = self._state(stream)
            state = old or StreamState(self._next_number(), Ledger())
            with self._transaction() as connection:
                save_stream(connection, stream, old, state)
                document = msgspec.json.encode(hello).decode()
                connection.execute("UPDATE store.streams SET hello = ? WHERE stream = ?", [document, state.number])
            self._streams[stream] = state

    def nodes(self) -> Mapping[StreamKey, Hello]:
        """Return every stream whose agent introduced itself, the latest start last."""
        query = "SELECT cluster, hello FROM store.streams WHERE hello IS NOT NULL ORDER BY stream"
        documents = (
            NodeDocument(cluster, msgspec.json.decode(text, type=Hello)) for cluster, text in self._rows(query, [])
        )
        return {document.stream: document.hello for document in documents}

    # Retention and life

    def prune(self, before_unix_ms: int, max_bytes: int) -> int:
        """Delete what is too old, then the oldest until the store fits; return the number of rows deleted."""
        with self._lock:
            deleted = self._delete("samples", f"{BLOCK_TIME} < ?", before_unix_ms)
            deleted += self._delete("windows", "end_unix_ms < ?", before_unix_ms)
            for _ in range(PRUNE_PASSES):
                used = self._used_bytes()
                if used <= max_bytes:
                    break
                deleted += self._delete_oldest(used - max_bytes, used)
            self._forget_streams(before_unix_ms)
        return deleted

    def _forget_streams(self, before_unix_ms: int) -> None:
        """Let go of starts that are over, of which nothing is left: agents that restart would fill the store."""
        with self._transaction() as connection:
            gone = forget_streams(connection, before_unix_ms)
        self._streams = {stream: state for stream, state in self._streams.items() if state.number not in gone}

    def _delete(self, table: str, condition: str, value: int) -> int:
        with self._transaction() as connection:
            query = f"DELETE FROM store.{table} WHERE {condition}"
            ((count,),) = connection.execute(query, [value]).fetchall()
        return int(count)

    def _delete_oldest(self, excess: int, used: int) -> int:
        """Delete about as many bytes of samples as are too many, or where there are none, of windows."""
        ((size,),) = self._rows("SELECT coalesce(sum(octet_length(packed)), 0) FROM store.samples", [])
        table, time, share = (
            ("samples", "unix_ns", excess / size) if size else ("windows", "end_unix_ms", excess / used)
        )
        query = f"SELECT quantile_disc({time}, {min(share, 1.0)}) FROM store.{table}"
        ((cut,),) = self._rows(query, [])
        return 0 if cut is None else self._delete(table, f"{time} <= ?", cut)

    def _used_bytes(self) -> int:
        """Return the bytes of the file that hold data; a checkpoint frees what was deleted for the next rows."""
        connection = self._connected()
        try:
            connection.execute("CHECKPOINT store")
        except duckdb.Error as error:
            self._roll_back(connection)
            raise self._refusal("cannot be pruned", error) from error
        return used_bytes(connection)

    def close(self) -> None:
        """Close the file; twice is fine."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self) -> Connection:
        """Return the connection; opens the file again after an error that made the database unusable."""
        with self._lock:
            if self._closed:
                raise StoreError(f"store {self.path}: is closed")
            if self._connection is None:
                self._connection, notice = open_database(self.path)
                self.notice = notice or self.notice
                self._streams = load_streams(self._connection)
            return self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._lock:
            connection = self._connected()
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                self._roll_back(connection)
                if isinstance(error, REFUSALS):
                    raise self._refusal("nothing was stored", error) from error
                raise

    def _roll_back(self, connection: Connection) -> None:
        """Undo a transaction. A database that cannot even do that is closed, and opened anew by the next caller."""
        try:
            connection.execute("ROLLBACK")
            connection.execute("FROM store.about")
        except duckdb.Error:
            connection.close()
            self._connection = None

    def _refusal(self, what: str, error: BaseException) -> StoreError:
        if isinstance(error, duckdb.Error):
            suspect(self.path, error)
        return StoreError(f"store {self.path}: {what}: {first_line(error)}")

    def _rows(self, query: str, values: list[Any]) -> Iterator[Row]:
        """Yield the rows of a query on a cursor of its own, so that readers see one state and hold up no writer."""
        cursor = self._connected().cursor()
        try:
            cursor.execute(query, values)
            while rows := cursor.fetchmany(FETCH_ROWS):
                yield from rows
        except duckdb.Error as error:
            raise self._refusal("cannot be read", error) from error
        finally:
            cursor.close()


def _run(text: str) -> Run:
    return msgspec.json.decode(text, type=RunDocument).run()
