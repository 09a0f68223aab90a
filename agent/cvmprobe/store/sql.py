"""The queries that the database and a snapshot's Parquet files share."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from cvmprobe.model.query import Selection, TimeRange
from cvmprobe.store.rows import INSTANCE, STREAM, WINDOWS, columns

__all__ = ["copy_to_parquet", "literal", "select_operations", "select_windows", "where"]

WINDOW_ORDER = f"ORDER BY end_unix_ms, {columns(STREAM)}, {columns(INSTANCE)}, seq, ordinal"
SAMPLE_ORDER = f"ORDER BY unix_ns, {columns(STREAM)}, {columns(INSTANCE)}, place"

Condition = tuple[str, list[Any]]  # a WHERE clause, or nothing, and its parameters


def where(selection: Selection, time_range: TimeRange, lease_ids: Collection[str] | None, time: str) -> Condition:
    """Return the condition for a selection; ``time`` is an expression in ms, ``lease_ids`` those of its run."""
    conditions = {
        "node = ANY(?)": list(selection.nodes) or None,
        "probe = ANY(?)": list(selection.probes) or None,
        "path = ANY(?)": list(selection.paths) or None,
        "target = ANY(?)": list(selection.targets) or None,
        "assignment_id = ANY(?)": None if lease_ids is None else list(lease_ids),
        f"{time} >= ?": time_range.start_unix_ms,
        f"{time} < ?": time_range.end_unix_ms,
    }
    asked = {text: value for text, value in conditions.items() if value is not None}
    return f"WHERE {' AND '.join(asked)}" if asked else "", list(asked.values())


def select_windows(source: str, condition: str) -> str:
    """Return the query for window rows from a table or a Parquet scan."""
    return f"SELECT {columns(WINDOWS)} FROM {source} {condition} {WINDOW_ORDER}"


def select_operations(condition: str) -> str:
    """Return the query for single raw operations, unpacked by the database itself from rows of 16 bytes each.

    ``t_unix_ns`` is the wall time by the block's clock pair, NULL where it does not fit 64 bits;
    ``lost_before`` stands on the first sample after a loss: samples lost there.
    """
    head = columns({**STREAM, **INSTANCE})
    return f"""
        SELECT {head}, TRY_CAST(unix_ns::HUGEINT + t_ns - monotonic_ns AS UBIGINT) AS t_unix_ns,
            t_ns, value_ns, kind, flags, aux, CASE WHEN number = 0 THEN lost ELSE 0 END AS lost_before
        FROM (
            SELECT {head}, monotonic_ns, unix_ns, lost, number,
                {_little_endian(0, 8)}::UBIGINT AS t_ns, {_little_endian(8, 4)}::UINTEGER AS value_ns,
                {_little_endian(12, 1)}::UTINYINT AS kind, {_little_endian(13, 1)}::UTINYINT AS flags,
                {_little_endian(14, 2)}::USMALLINT AS aux
            FROM (
                SELECT {head}, monotonic_ns, unix_ns, lost, unnest(range(octet_length(packed) // 16)) AS number,
                    unnest(regexp_extract_all(hex(packed), '.{{32}}')) AS digits
                FROM (FROM store.samples {condition} {SAMPLE_ORDER})
            )
        )"""


def copy_to_parquet(query: str, path: Path) -> str:
    """Return the statement that writes a query's rows to a file."""
    return f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"


def literal(text: str) -> str:
    """Return text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _little_endian(offset: int, size: int) -> str:
    """Return the expression for the unsigned number in some bytes of a row, of which ``digits`` has the hex digits."""
    digits = (f"digits[{2 * byte + 1}:{2 * byte + 2}]" for byte in reversed(range(offset, offset + size)))
    return f"('0x' || {' || '.join(digits)})"
