"""A snapshot: one zip that is read without a collector, and whose tables are read without cvmprobe.

manifest.json      what it is, where from, what is missing; size and SHA-256 of the others
windows.parquet    one row per window and metric; columns in ``rows.WINDOWS``
samples.parquet    one row per raw operation, when asked for; columns in ``sql.select_operations``
"""

import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from cvmprobe import __version__
from cvmprobe.errors import StoreError, UsageError
from cvmprobe.model.delivery import Gap
from cvmprobe.model.query import Selection, SnapshotFormat, TimeRange
from cvmprobe.model.run import Run
from cvmprobe.model.window import Window
from cvmprobe.store import EVERYTHING, FOREVER, Store
from cvmprobe.store.archive import SAMPLES_TABLE, WINDOWS_TABLE, copy_member, damage_named, member_of, pack, verify
from cvmprobe.store.database import first_line
from cvmprobe.store.manifest import SCHEMA_VERSION, Manifest, encode_manifest
from cvmprobe.store.rows import windows_from
from cvmprobe.store.sql import select_windows, where
from cvmprobe.store.table import contents, table_rows, write_csv, write_json

__all__ = ["Snapshot", "read_snapshot", "write_snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot whose members were all found whole; its windows are read when they are asked for."""

    path: Path
    manifest: Manifest

    def windows(self, selection: Selection = EVERYTHING, time_range: TimeRange = FOREVER) -> Iterator[Window]:
        """Yield the windows that end within the range, in order of their end; StoreError where the file changed."""
        lease_ids = None
        if selection.run_id is not None:
            runs = (run for run in self.manifest.runs if run.run_id == selection.run_id)
            lease_ids = [record.lease_id for run in runs for record in run.leases]
        condition, values = where(selection, time_range, lease_ids, "end_unix_ms")
        query = select_windows("read_parquet(?)", condition)
        with damage_named(self.path), tempfile.TemporaryDirectory(prefix="cvmprobe-") as folder:
            member, table = self.manifest.members[WINDOWS_TABLE], Path(folder) / WINDOWS_TABLE
            copy_member(self.path, WINDOWS_TABLE, member, table)
            yield from windows_from(table_rows(table, member.rows, query, values))


def read_snapshot(path: Path) -> Snapshot:
    """Read and verify a snapshot; every member's size and hash is checked before anything of it is used.

    StoreError, in one line, for what is no snapshot, is truncated, altered, or of a later version.
    """
    with damage_named(path):
        return Snapshot(path, verify(path))


def write_snapshot(
    store: Store,
    path: Path,
    *,
    selection: Selection = EVERYTHING,
    time_range: TimeRange = FOREVER,
    with_samples: bool = False,
    snapshot_format: SnapshotFormat = SnapshotFormat.ZIP,
    overwrite: bool = False,
) -> Manifest:
    """Write what is selected to ``path``, whole or not at all, and return what it says about itself.

    JSON holds the manifest and the rows of the windows, CSV the rows alone. UsageError for a file that is there
    already, a run that is not, and samples asked for in a text format; StoreError where it cannot be written.
    """
    if with_samples and snapshot_format is not SnapshotFormat.ZIP:
        raise UsageError(f"raw samples are written into a zip alone, not into {snapshot_format}; leave them out")
    _refuse_overwriting(path, overwrite=overwrite)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            manifest, tables = _gather(store, Path(folder), selection, time_range, with_samples=with_samples)
            draft = _render(manifest, tables, snapshot_format, Path(folder) / "draft")
            _publish(draft, path, overwrite=overwrite)
    except (OSError, duckdb.Error) as error:
        raise StoreError(f"snapshot {path}: cannot be written: {first_line(error)}") from error
    return manifest


def _gather(
    store: Store, folder: Path, selection: Selection, time_range: TimeRange, *, with_samples: bool
) -> tuple[Manifest, dict[str, Path]]:
    """Write the tables into a folder, and say all about them."""
    runs = _runs(store, selection, time_range)
    tables = {WINDOWS_TABLE: folder / WINDOWS_TABLE}
    rows = {WINDOWS_TABLE: store.export_windows(tables[WINDOWS_TABLE], selection, time_range)}
    samples_lost = None
    if with_samples:
        tables[SAMPLES_TABLE] = folder / SAMPLES_TABLE
        rows[SAMPLES_TABLE], samples_lost = store.export_samples(tables[SAMPLES_TABLE], selection, time_range)
    span, streams = contents(tables[WINDOWS_TABLE])
    gaps = tuple(gap for gap in store.gaps() if gap.stream in streams or _came_during(gap, runs))
    concerned = streams | {gap.stream for gap in gaps}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        created_unix_ms=time.time_ns() // 10**6,
        suite=runs[0].suite if len(runs) == 1 else None,
        time_range=span,
        runs=runs,
        nodes={stream: hello for stream, hello in store.nodes().items() if stream in concerned},
        gaps=gaps,
        versions={"cvmprobe": __version__, "duckdb": duckdb.__version__, "python": platform.python_version()},
        samples_lost=samples_lost,
        members={name: member_of(table, rows[name]) for name, table in tables.items()},
    )
    return manifest, tables


def _runs(store: Store, selection: Selection, time_range: TimeRange) -> tuple[Run, ...]:
    """Return the run that is asked for, or all that were on in the time range."""
    runs = store.runs()
    if selection.run_id is None:
        return tuple(run for run in runs if _overlaps(run, time_range))
    asked = tuple(run for run in runs if run.run_id == selection.run_id)
    if not asked:
        raise UsageError(f"run {selection.run_id}: there is none of that name; 'cvmprobe get runs' lists them")
    return asked


def _came_during(gap: Gap, runs: Iterable[Run]) -> bool:
    moment = TimeRange(gap.since_unix_ms, gap.since_unix_ms + 1)
    return any(_overlaps(run, moment) for run in runs)


def _overlaps(run: Run, span: TimeRange) -> bool:
    starts_before = span.end_unix_ms is None or run.started_unix_ms < span.end_unix_ms
    ends_after = span.start_unix_ms is None or run.ended_unix_ms is None or run.ended_unix_ms >= span.start_unix_ms
    return starts_before and ends_after


def _render(manifest: Manifest, tables: Mapping[str, Path], snapshot_format: SnapshotFormat, draft: Path) -> Path:
    match snapshot_format:
        case SnapshotFormat.ZIP:
            pack(draft, encode_manifest(manifest), tables)
        case SnapshotFormat.JSON:
            with draft.open("xb") as file:
                write_json(encode_manifest(replace(manifest, members={})), tables[WINDOWS_TABLE], file)
        case SnapshotFormat.CSV:
            write_csv(tables[WINDOWS_TABLE], draft)
    return draft


def _publish(draft: Path, path: Path, *, overwrite: bool) -> None:
    """Let a finished file appear under its name in one step, after its bytes are on the disk."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    _refuse_overwriting(path, overwrite=overwrite)  # one may have come in the meantime
    draft.replace(path)


def _refuse_overwriting(path: Path, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already; name another file")
