"""Numbered batches at rest until they are acknowledged: one SQLite file per start, every row with its checksum.

    state_dir/spool/<start id>.sqlite          this start, locked while it lives
                    <another id>.sqlite        a start that ended before all of it was acknowledged: a leftover
                    damaged.sqlite             the last file that could not be read, for a person to look at

What a spool no longer has is never remembered apart: a hole between the numbers it holds, up to the last
number given out, *is* the loss. So a crash between any two writes cannot lose a batch without its being counted.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from cvmprobe.errors import ProbeError
from cvmprobe.model.delivery import Hello

__all__ = ["DAMAGED", "SUFFIX", "Row", "Spool", "SpoolError", "files", "remove", "set_aside"]

SUFFIX: Final = ".sqlite"
DAMAGED: Final = f"damaged{SUFFIX}"
_ROW_OVERHEAD: Final = 64  # SQLite's own bytes for a row, generously
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batches (seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL);
"""


class SpoolError(ProbeError):
    """The spool cannot be written or read now; ``busy``: a living process holds it; ``damaged``: it never will."""

    def __init__(self, message: str, *, busy: bool = False, damaged: bool = False) -> None:
        super().__init__(message)
        self.busy = busy
        self.damaged = damaged


@dataclass(frozen=True, slots=True)
class Row:
    """One numbered batch as bytes."""

    seq: int
    body: bytes


class Spool:
    """The batches of one start. ``path`` None keeps them in memory. Raises SpoolError from every method.

    ``last_seq`` is the highest number ever put here, ``acked`` the highest forgotten; both outlive the process.
    """

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._where = "memory" if path is None else str(path)
        with self._named("open"):
            self._db = sqlite3.connect(":memory:" if path is None else path, timeout=0, isolation_level=None)
        try:
            self._prepare()
        except SpoolError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._named("open"):
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA journal_size_limit = 4194304")
            self._db.execute("PRAGMA cache_size = -512")
            self._db.execute("PRAGMA temp_store = MEMORY")  # no directory but our own may be writable
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            self._db.text_factory = bytes  # a damaged cell must not fail to decode
            count = "SELECT count(*), coalesce(sum(length(body)), 0) FROM batches"
            rows, length = self._db.execute(count).fetchone()
        self._bytes = int(length) + int(rows) * _ROW_OVERHEAD
        self.last_seq = self._number("last_seq")
        self.acked = self._number("acked")

    @property
    def pending(self) -> int:
        """Number of batches held."""
        with self._named("read"):
            return int(self._db.execute("SELECT count(*) FROM batches").fetchone()[0])

    @property
    def hello(self) -> Hello | None:
        """How the start that filled this spool introduced itself; None where that cannot be read."""
        body = self._fact("hello")
        with suppress(msgspec.DecodeError, msgspec.ValidationError):
            return None if body is None else msgspec.json.decode(body, type=Hello)
        return None

    @property
    def ended(self) -> bool:
        """Whether that start ended in good order: its last number is final."""
        return self._fact("ended") is not None

    def introduce(self, hello: Hello) -> None:
        """Keep ``hello``, so that a later start can deliver what this one leaves."""
        with self._named("write"):
            self._set_fact("hello", msgspec.json.encode(hello))

    def end(self) -> None:
        """Say that no further number will be given out."""
        with self._named("write"):
            self._set_fact("ended", b"")

    def put(self, row: Row) -> list[int]:
        """Keep a batch; returns the numbers of the older ones dropped to make room for it."""
        size = len(row.body) + _ROW_OVERHEAD
        with self._named("write"), self._transaction():
            dropped = self._make_room(size)
            crc = _checksum(str(row.seq), row.body)
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?)", (row.seq, crc, row.body))
            self._set_fact("last_seq", str(row.seq).encode())
        self.last_seq = row.seq
        self._bytes += size - sum(dropped.values())
        return list(dropped)

    def after(self, seq: int) -> Row | None:
        """Return the first whole batch numbered above ``seq``; a row that fails its checksum is not there."""
        with self._named("read"):
            rows = self._db.execute("SELECT seq, crc, body FROM batches WHERE seq > ? ORDER BY seq", (seq,))
            for number, crc, body in rows:
                if isinstance(body, bytes) and crc == _checksum(str(number), body):
                    return Row(number, body)
        return None

    def forget(self, seq: int) -> None:
        """Delete all batches up to ``seq``."""
        with self._named("write"), self._transaction():
            gone = self._delete(seq)
            self._set_fact("acked", str(max(seq, self.acked)).encode())
        self.acked = max(seq, self.acked)
        self._bytes -= sum(gone.values())

    def close(self) -> None:
        """Write back and let go of the file; twice is fine."""
        with suppress(sqlite3.Error):
            self._db.close()

    def remove(self) -> None:
        """Close and delete the file: all of it is acknowledged."""
        self.close()
        if self.path is not None:
            remove(self.path)

    def quarantine(self) -> None:
        """Close the file and set it aside."""
        self.close()
        if self.path is not None:
            set_aside(self.path)

    def _make_room(self, size: int) -> dict[int, int]:
        """Delete the oldest batches until ``size`` more bytes fit; returns their numbers and sizes."""
        excess = self._bytes + size - self._max_bytes
        last = 0
        if excess > 0:
            for seq, length in self._db.execute("SELECT seq, length(body) FROM batches ORDER BY seq"):
                last = seq
                excess -= length + _ROW_OVERHEAD
                if excess <= 0:
                    break
        return self._delete(last)

    def _delete(self, seq: int) -> dict[int, int]:
        gone = self._db.execute("DELETE FROM batches WHERE seq <= ? RETURNING seq, length(body)", (seq,))
        return {number: length + _ROW_OVERHEAD for number, length in gone}

    def _number(self, name: str) -> int:
        return int(self._fact(name) or b"0")

    def _fact(self, name: str) -> bytes | None:
        with self._named("read"):
            found = self._db.execute("SELECT crc, body FROM facts WHERE name = ?", (name,)).fetchone()
        if found is None:
            return None
        crc, body = found
        if not isinstance(body, bytes) or crc != _checksum(name, body):
            raise SpoolError(f"spool {self._where}: its {name} fails the checksum", damaged=True)
        return body

    def _set_fact(self, name: str, body: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (name, _checksum(name, body), body))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _named(self, verb: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            raise SpoolError(
                f"cannot {verb} spool {self._where}: {error}",
                busy=code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
                damaged=code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
            ) from error


def _checksum(name: str, body: bytes) -> int:
    """CRC-32 of a row's name and body, so that neither can change unseen."""
    return zlib.crc32(body, zlib.crc32(name.encode()))


def files(path: Path) -> tuple[Path, Path, Path]:
    """Name all files of the spool at ``path``; those beside it need not exist."""
    return path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def remove(path: Path) -> None:
    """Delete the spool at ``path``; what cannot be deleted stays."""
    for file in files(path):
        with suppress(OSError):
            file.unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Keep the unreadable spool at ``path`` for a person to look at, in the place of the one before."""
    aside = path.with_name(DAMAGED)
    remove(aside)
    for source, target in zip(files(path), files(aside), strict=True):
        with suppress(OSError):
            source.rename(target)
