"""The shape at rest: one row per window and metric, the same in the database and in ``windows.parquet``.

A row is readable without cvmprobe: plain text, integers and lists of integers. ``parameters`` and ``facts``
are JSON objects, ``flags`` are joined by commas, ``path`` is NULL for a volume. A row has either ``value``
(a counter) or the histogram's columns; a window in which nothing was counted has one row without a metric.
``value_sum_squares`` is decimal text, because it has up to 128 bits and Parquet has no such integer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import Batch, StreamKey
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, NodeTarget, Path, Role, Target, VolumeTarget
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe, SampleBlock, Window

__all__ = [
    "INSTANCE",
    "SAMPLES",
    "STREAM",
    "WINDOWS",
    "Row",
    "batch_rows",
    "block_rows",
    "columns",
    "instance_from",
    "instance_values",
    "windows_from",
]

Row = Sequence[Any]  # as the database hands it out and takes it

STREAM: Mapping[str, str] = {
    "cluster": "VARCHAR NOT NULL",
    "boot_id": "VARCHAR NOT NULL",
    "start_id": "VARCHAR NOT NULL",
}
INSTANCE: Mapping[str, str] = {
    "node": "VARCHAR NOT NULL",
    "role": "VARCHAR NOT NULL",
    "assignment_id": "VARCHAR NOT NULL",
    "probe": "VARCHAR NOT NULL",
    "target": "VARCHAR NOT NULL",
    "path": "VARCHAR",
    "direction": "VARCHAR NOT NULL",
    "repeat": "UBIGINT NOT NULL",
    "parameters": "VARCHAR NOT NULL",
}
WINDOWS: Mapping[str, str] = {
    **STREAM,
    **INSTANCE,
    "seq": "UBIGINT NOT NULL",
    "ordinal": "UINTEGER NOT NULL",  # place of the window in its batch
    "end_unix_ms": "UBIGINT NOT NULL",
    "duration_ns": "UBIGINT NOT NULL",
    "phase": "VARCHAR NOT NULL",
    "flags": "VARCHAR NOT NULL",
    "facts": "VARCHAR NOT NULL",
    "metric": "VARCHAR",
    "value": "UBIGINT",
    "histogram_schema": "TINYINT",
    "bucket_indices": "INTEGER[]",
    "bucket_counts": "UBIGINT[]",
    "zero_count": "UBIGINT",
    "overflow_count": "UBIGINT",
    "value_sum": "UBIGINT",
    "value_sum_squares": "VARCHAR",
    "value_minimum": "UBIGINT",
    "value_maximum": "UBIGINT",
}
SAMPLES: Mapping[str, str] = {
    **STREAM,
    **INSTANCE,
    "monotonic_ns": "UBIGINT NOT NULL",
    "unix_ns": "UBIGINT NOT NULL",
    "lost": "UBIGINT NOT NULL",  # samples lost before the first of this row
    "place": "UINTEGER NOT NULL",  # of the row in its block
    "packed": "BLOB NOT NULL",
}
HEAD = len(STREAM) + len(INSTANCE)
KEY = list(WINDOWS).index("duration_ns")  # the columns before tell one window from another
HISTOGRAM = len(WINDOWS) - list(WINDOWS).index("histogram_schema")
SAMPLE_BYTES = 16
CHUNK_BYTES = 256 * SAMPLE_BYTES  # in one row, so that the database frees space in small steps
VOLUME = "volume:"


def columns(table: Mapping[str, str]) -> str:
    """Return the names of the columns as a SQL list."""
    return ", ".join(table)


def batch_rows(stream: StreamKey, batch: Batch) -> Iterator[Row]:
    """Yield the rows of all windows of a batch; StoreError for a window of another endpoint than the stream's."""
    for ordinal, window in enumerate(batch.windows):
        head = (
            *_head(stream, window.instance),
            batch.seq,
            ordinal,
            window.end_unix_ms,
            window.duration_ns,
            window.phase,
            ",".join(sorted(window.flags)),
            _text(window.facts),
        )
        for metric, value in window.counters.items():
            yield (*head, metric, value, *[None] * HISTOGRAM)
        for metric, histogram in window.histograms.items():
            yield (*head, metric, None, *_histogram_values(histogram))
        if not window.counters and not window.histograms:
            yield (*head, None, None, *[None] * HISTOGRAM)


def windows_from(rows: Iterable[Row]) -> Iterator[Window]:
    """Yield the windows of rows in which those of one window stand together; StoreError where they make no sense."""
    try:
        for _, group in groupby(rows, key=lambda row: row[:KEY]):
            yield _window(list(group))
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"stored windows: a row makes no sense ({error}); restore the file from a good copy"
        ) from error


def block_rows(stream: StreamKey, block: SampleBlock) -> Iterator[Row]:
    """Yield the rows of a block of raw operations, some of its samples in each; StoreError unless it holds whole ones.

    They stay packed until they are exported: to unpack them costs more than a collector beside a measurement may use.
    """
    if len(block.rows) % SAMPLE_BYTES:
        raise StoreError(f"sample block: {len(block.rows)} bytes are not a multiple of {SAMPLE_BYTES}; it is dropped")
    head = (*_head(stream, block.instance), block.clock.monotonic_ns, block.clock.unix_ns)
    for place, start in enumerate(range(0, len(block.rows) or 1, CHUNK_BYTES)):
        yield (*head, 0 if place else block.lost, place, block.rows[start : start + CHUNK_BYTES])


def instance_values(instance: Instance) -> Row:
    """Return the values of the INSTANCE columns."""
    return (
        instance.source.node,
        instance.source.role,
        instance.assignment_id,
        instance.probe,
        str(instance.target),
        instance.path,
        instance.direction,
        instance.repeat,
        _text(instance.parameters),
    )


def instance_from(values: Row) -> Instance:
    """Return the instance of the values of the INSTANCE columns; ValueError where they make no sense."""
    node, role, assignment_id, probe, target, path, direction, repeat, parameters = values
    return Instance(
        assignment_id=assignment_id,
        probe=Probe(probe),
        source=Endpoint(node, Role(role)),
        target=_target(target, path),
        direction=Direction(direction),
        repeat=repeat,
        parameters=_mapping(parameters),
    )


def _target(text: str, path: str | None) -> Target:
    if path is None and text == str(NodeTarget()):
        return NodeTarget()
    if path is None:
        return VolumeTarget(text.removeprefix(VOLUME))
    node, _, role = text.rpartition("/")
    return EndpointTarget(Endpoint(node, Role(role)), Path(path))


def _window(rows: Sequence[Row]) -> Window:
    first = rows[0]
    _, _, end_unix_ms, duration_ns, phase, flags, facts = first[HEAD : HEAD + 7]
    metrics = [row[HEAD + 7 :] for row in rows]
    return Window(
        instance=instance_from(first[len(STREAM) : HEAD]),
        end_unix_ms=end_unix_ms,
        duration_ns=duration_ns,
        phase=Phase(phase),
        counters={metric: value for metric, value, *_ in metrics if value is not None},
        histograms={row[0]: _histogram(row[2:]) for row in metrics if row[2] is not None},
        facts=_mapping(facts),
        flags=frozenset(Flag(flag) for flag in flags.split(",") if flag),
    )


def _histogram_values(histogram: Histogram) -> Row:
    return (
        histogram.schema,
        list(histogram.buckets),
        list(histogram.buckets.values()),
        histogram.zero,
        histogram.overflow,
        histogram.sum,
        str(histogram.sum_squares),
        histogram.minimum,
        histogram.maximum,
    )


def _histogram(values: Row) -> Histogram:
    schema, indices, counts, zero, overflow, total, sum_squares, minimum, maximum = values
    buckets = dict(zip(indices, counts, strict=True))
    return Histogram(schema, buckets, zero, overflow, total, int(sum_squares), minimum, maximum)


def _head(stream: StreamKey, instance: Instance) -> Row:
    if instance.source != stream.endpoint:  # or the columns node and role would not tell one stream from another
        raise StoreError(
            f"{stream.endpoint} reports as {instance.source}: an agent speaks for itself; nothing is stored"
        )
    return (stream.cluster, stream.boot_id, stream.start_id, *instance_values(instance))


def _text(mapping: Mapping[str, str]) -> str:
    return msgspec.json.encode(mapping, order="sorted").decode()


def _mapping(text: str) -> Mapping[str, str]:
    return msgspec.json.decode(text, type=dict[str, str])
