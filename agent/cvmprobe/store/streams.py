"""Ledgers at rest: all are read when the store opens, and only what a change touched is written."""

from collections import defaultdict
from dataclasses import dataclass

from cvmprobe.model.delivery import Gap, StreamKey
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.store.database import Connection
from cvmprobe.store.ledger import Ledger, Range

__all__ = ["StreamState", "forget_streams", "load_streams", "save_stream"]


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream as the store has it; ``number`` is its key in the tables."""

    number: int
    ledger: Ledger


def load_streams(connection: Connection) -> dict[StreamKey, StreamState]:
    """Return the state of every stream ever seen, the first seen first."""
    stored: defaultdict[int, list[Range]] = defaultdict(list)
    for number, first, last in connection.execute("FROM store.batches ORDER BY stream, first_seq").fetchall():
        stored[number].append((first, last))
    gaps: defaultdict[int, list[tuple[int, int | None, str, int]]] = defaultdict(list)
    for number, *gap in connection.execute("FROM store.gaps ORDER BY stream, first_seq").fetchall():
        gaps[number].append((gap[0], gap[1], gap[2], gap[3]))

    states: dict[StreamKey, StreamState] = {}
    keys = "SELECT stream, cluster, node, role, boot_id, start_id, last_seq FROM store.streams ORDER BY stream"
    for number, cluster, node, role, boot_id, start_id, last_seq in connection.execute(keys).fetchall():
        stream = StreamKey(cluster, Endpoint(node, Role(role)), boot_id, start_id)
        missing = [Gap(stream, *gap) for gap in gaps[number]]
        ledger = Ledger(
            stored=tuple(stored[number]),
            lost=tuple(gap for gap in missing if gap.last_seq is not None),
            open_gap=next((gap for gap in missing if gap.last_seq is None), None),
            last_seq=last_seq,
        )
        states[stream] = StreamState(number, ledger)
    return states


def save_stream(connection: Connection, stream: StreamKey, old: StreamState | None, new: StreamState) -> None:
    """Write what changed of a stream, inside the caller's transaction."""
    number = new.number
    if old is None:
        names = (stream.cluster, stream.endpoint.node, stream.endpoint.role, stream.boot_id, stream.start_id)
        connection.execute("INSERT INTO store.streams VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)", [number, *names])
    before = old.ledger if old else Ledger()
    after = new.ledger
    if after.last_seq != before.last_seq:
        connection.execute("UPDATE store.streams SET last_seq = ? WHERE stream = ?", [after.last_seq, number])
    if after.gaps != before.gaps:
        _save_gaps(connection, number, set(before.gaps), set(after.gaps))
    _save_ranges(connection, number, set(before.stored), set(after.stored))


def forget_streams(connection: Connection, before_unix_ms: int) -> frozenset[int]:
    """Delete the streams that have ended and have no window left, but for the newest of each endpoint.

    One that ended without Bye may come back, and is kept until its open gap is older than ``before_unix_ms``.
    Returns their numbers.
    """
    over = """
        SELECT stream FROM store.streams old
        WHERE stream < (SELECT max(stream) FROM store.streams new
                        WHERE (new.cluster, new.node, new.role) = (old.cluster, old.node, old.role))
        AND (last_seq IS NOT NULL
             OR stream IN (SELECT stream FROM store.gaps WHERE last_seq IS NULL AND since_unix_ms < ?))
        AND (cluster, boot_id, start_id, node, role) NOT IN
            (SELECT DISTINCT (cluster, boot_id, start_id, node, role) FROM store.windows)
    """
    gone = frozenset(number for (number,) in connection.execute(over, [before_unix_ms]).fetchall())
    for table in ("gaps", "batches", "streams") if gone else ():
        connection.execute(f"DELETE FROM store.{table} WHERE stream IN (SELECT unnest(?))", [list(gone)])
    return gone


def _save_gaps(connection: Connection, number: int, before: set[Gap], after: set[Gap]) -> None:
    """Write the gaps that changed alone: a stream may have thousands."""
    for gap in before - after:
        connection.execute(
            "DELETE FROM store.gaps WHERE stream = ? AND first_seq = ? AND last_seq IS NOT DISTINCT FROM ?",
            [number, gap.first_seq, gap.last_seq],
        )
    for gap in after - before:
        values = [number, gap.first_seq, gap.last_seq, gap.reason, gap.since_unix_ms]
        connection.execute("INSERT INTO store.gaps VALUES (?, ?, ?, ?, ?)", values)


def _save_ranges(connection: Connection, number: int, before: set[Range], after: set[Range]) -> None:
    gone, come = sorted(before - after), sorted(after - before)
    if len(gone) == len(come) == 1:  # a stream that simply goes on
        values = [*come[0], number, gone[0][0]]
        connection.execute(
            "UPDATE store.batches SET first_seq = ?, last_seq = ? WHERE stream = ? AND first_seq = ?", values
        )
        return
    for first, _ in gone:
        connection.execute("DELETE FROM store.batches WHERE stream = ? AND first_seq = ?", [number, first])
    for first, last in come:
        connection.execute("INSERT INTO store.batches VALUES (?, ?, ?)", [number, first, last])
