"""The disk probe: reads and writes of scratch files, so many in flight, past the page cache; or a write-ahead log."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cvmprobe.errors import EngineError, UnsoundError, UsageError
from cvmprobe.model.window import Flag, Phase, Probe, Window
from cvmprobe.probes.block_device import BlockDevice
from cvmprobe.probes.disk_parameters import DiskParameters, Load, cost, read_load
from cvmprobe.probes.entry import Entry, Metric
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.little import judge_in_flight
from cvmprobe.probes.scratch import SHELF, Scratch, allocate, check_block, check_limits, prepare

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.disk import Disk
    from cvmprobe.native.engine import Engine

__all__ = ["ENTRY"]

_SAMPLE_ROWS = 1 << 18  # half a second at 500 000 operations a second
_LOOK_NS = 50_000_000
_SYNCS_TO_TELL = 100  # of which one may be slow
_FAILURES = ("short_transfers", "io_errors", "space_errors", "other_errors")
_MISMATCHES = ("corrupt_blocks", "misplaced_blocks", "stale_blocks")
_DEVICE = (
    Metric("block_reads", "operations", "reads of the block device under the file, everybody's"),
    Metric("block_read_bytes", "bytes", "what they moved"),
    Metric("block_writes", "operations", "writes of the block device under the file, everybody's"),
    Metric("block_write_bytes", "bytes", "what they moved"),
    Metric("block_flushes", "operations", "cache flushes of the block device"),
    Metric("block_busy_ns", "ns", "time the block device had operations in flight; of the window: its utilisation"),
    Metric("backing_read_bytes", "bytes", "reads of the devices that the block device is made of"),
    Metric("backing_write_bytes", "bytes", "writes of those; over write_bytes: the stack's write amplification"),
)


class _DiskFace:
    """Prepares the scratch files, runs the engine on them, and judges what came of it."""

    def __init__(self, setup: Setup, volume: Path, load: Load) -> None:
        self._setup = setup
        self._volume = volume
        self._load = load
        self._files: list[Scratch] = []
        self._device: BlockDevice | None = None
        self._engine: Disk | None = None
        self._written_before = 0  # to prepare

    @property
    def omit_ms(self) -> int:
        return self._load.omit_ms

    @property
    def operations(self) -> Sequence[str]:
        return ("reads", "writes") if self._load.rate_per_s else ()

    def open(self, stopping: Callable[[], bool]) -> "Engine":
        run = secrets.randbits(63) | 1 if self._load.verify else 0
        self._make_engine(run)  # refuses what it cannot do before anything is written
        self._prepare_files(stopping)
        if run:
            self._lay_headers(run, stopping)
        self._device = BlockDevice(self._files[0].fd)
        engine = self._engine = self._make_engine(run)
        engine.arm()
        return engine

    def count_device(self) -> Mapping[str, int]:
        """Return what the block device counted since the last call."""
        return {} if self._device is None else self._device.counters()

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        self._refuse_wrong_data(totals)
        load = self._load
        judged = _flag_failures(windows)
        if not load.rate_per_s and judged:
            judged = judge_in_flight(
                judged, ("total_ns", "sync_ns"), load.workers * int(judged[-1].facts.get("depth", load.depth))
            )
        if load.log:
            judged = _judge_log(judged)
        device = {
            metric.name: sum(window.counters[metric.name] for window in windows)
            for metric in _DEVICE
            if windows and all(metric.name in window.counters for window in windows)
        }
        return Completed(judged, {**totals, **device, "fill_bytes": self._written_before})

    def close(self) -> None:
        for file in self._files:
            if self._load.log:
                file.close()  # what was appended to is no new log any more
            else:
                SHELF.put(self._volume, file)
        self._files = []

    def _prepare_files(self, stopping: Callable[[], bool]) -> None:
        load, setup = self._load, self._setup
        if not load.log:
            self._take_from_shelf()
        missing = load.workers - len(self._files)
        if missing:
            check_limits(self._volume, missing * load.file_bytes, setup.max_bytes)
        for _ in range(missing):
            self._files.append(self._prepare_file(stopping))
            self._written_before += self._files[-1].filled_bytes
        if not load.log:
            check_block(self._files[0].fd, load.block_bytes, self._volume)
        if load.writes and setup.max_bytes - self._written_before < load.block_bytes:
            raise UsageError(
                f"disk: making the scratch file used up the {setup.max_bytes} bytes that may be written:"
                " ask for a smaller file or raise the disk budget"
            )

    def _take_from_shelf(self) -> None:
        while len(self._files) < self._load.workers:
            file = SHELF.take(self._volume, self._load.file_bytes)
            if file is None:
                return
            self._files.append(file)

    def _prepare_file(self, stopping: Callable[[], bool]) -> Scratch:
        load, left = self._load, self._setup.max_bytes - self._written_before
        if load.log:
            return allocate(self._volume, load.file_bytes, max_bytes=left, any_filesystem=load.any_filesystem)
        return prepare(
            self._volume,
            load.file_bytes,
            max_bytes=left,
            any_filesystem=load.any_filesystem,
            stopping=stopping,
        )

    def _make_engine(self, run: int) -> "Disk":
        from cvmprobe.native.disk import Disk

        load, setup = self._load, self._setup
        return Disk(
            fds=[file.fd for file in self._files] or [-1] * load.workers,
            file_bytes=load.file_bytes,
            block_bytes=load.block_bytes,
            depth=load.depth,
            sequential=load.sequential,
            read_percent=load.read_percent,
            max_write_bytes=setup.max_bytes - self._written_before,
            append=load.log,
            direct=not load.log,
            sync_every=load.sync_every,
            data_only=load.data_only,
            rate_per_s=load.rate_per_s,
            verify_run=run,
            generation=1 if run else 0,
            engine=load.engine,
            seed=secrets.randbits(64),
            ring_rows=_SAMPLE_ROWS if setup.raw_samples else 0,
            duration_ms=setup.duration_ms,
            notes={**(self._files[0].facts if self._files else {}), **(self._device.facts if self._device else {})},
        )

    def _lay_headers(self, run: int, stopping: Callable[[], bool]) -> None:
        """Write every block once under the header that reads will expect."""
        from cvmprobe.native.disk import Disk

        load = self._load
        needed = load.workers * load.file_bytes
        left = self._setup.max_bytes - self._written_before
        if needed > left:
            raise UsageError(f"disk: verify writes {needed} bytes first, and {left} may be written: raise the budget")
        engine = Disk(
            fds=[file.fd for file in self._files],
            file_bytes=load.file_bytes,
            block_bytes=load.block_bytes,
            read_percent=0,
            append=True,
            depth=load.depth,
            max_write_bytes=needed,
            verify_run=run,
            engine=load.engine,
        )
        with closing(engine):
            engine.arm()
            engine.start()
            while not (laid := engine.snapshot(time.monotonic_ns() + _LOOK_NS)).finished:
                if stopping():
                    raise UsageError("disk: stopped on request while writing the blocks to verify")
            self._written_before += laid.counters["write_bytes"]
            if laid.counters["write_bytes"] != needed:
                call, number = engine.error or ("pwrite", 0)
                raise EngineError(call, number, "disk: write the blocks to verify")

    def _refuse_wrong_data(self, totals: Mapping[str, int]) -> None:
        found = {name: totals[name] for name in _MISMATCHES if totals.get(name)}
        if not found or self._engine is None:
            return
        kinds = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items())
        raise UnsoundError(
            f"disk: {totals['reads']} reads returned {kinds}, the first at byte {self._engine.first_bad_offset()}:"
            f" do not trust {self._volume} with data"
        )


def _flag_failures(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    """Flag the windows in which operations failed: their figures are those of what did not."""
    return tuple(
        replace(window, flags=window.flags | {Flag.ERROR})
        if any(window.counters.get(name) for name in _FAILURES)
        else window
        for window in windows
    )


def _judge_log(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    """Say whether the steady syncs keep etcd's advice: 99 of 100 within 10 ms."""
    steady = [window for window in windows if window.phase is Phase.STEADY]
    syncs = sum(window.counters["syncs"] for window in steady)
    slow = sum(window.counters["slow_syncs"] for window in steady)
    if not syncs:
        return windows
    said = f"{_etcd_verdict(slow, syncs)}: {slow} of {syncs} syncs took over 10 ms, and 1 in 100 may"
    return tuple(replace(window, facts={**window.facts, "etcd_advice": said}) for window in windows)


def _etcd_verdict(slow: int, syncs: int) -> str:
    if slow * _SYNCS_TO_TELL > max(syncs, _SYNCS_TO_TELL):
        return "not kept"
    return "kept" if syncs >= _SYNCS_TO_TELL else "undecided"


def _prepare(setup: Setup) -> Execution:
    load = read_load(setup.instance.parameters)
    if setup.volume is None:
        raise UsageError("disk: no volume to measure: name one of this endpoint's volumes")
    face = _DiskFace(setup, setup.volume, load)
    return Execution(setup, face, face.count_device)


ENTRY = Entry(
    probe=Probe.DISK,
    title="Reads and writes of files past the page cache, so many in flight; or a write-ahead log",
    metrics=(
        Metric("reads", "operations", "reads that ended", headline=True),
        Metric("writes", "operations", "writes that ended", headline=True),
        Metric("total_ns", "ns", "from the intended start of an operation until its end was seen", headline=True),
        Metric(
            "commit_ns", "ns", "wal: from the intended start of an append until its sync was seen to end", headline=True
        ),
        Metric("sync_ns", "ns", "one fsync or fdatasync, from its submission until its end was seen", headline=True),
        Metric("read_total_ns", "ns", "total_ns of the reads of a mix"),
        Metric("write_total_ns", "ns", "total_ns of the writes of a mix"),
        Metric("service_ns", "ns", "total_ns without the wait for a free slot, where a rate is given"),
        Metric("submit_ns", "ns", "the submitting call, which up to four operations share"),
        Metric("device_ns", "ns", "from after the submitting call until the end was seen"),
        Metric("read_bytes", "bytes", "what the reads moved"),
        Metric("write_bytes", "bytes", "what the writes moved; the scratch file's making apart"),
        Metric("fill_bytes", "bytes", "what making the scratch files wrote (total only); 0: earlier ones were re-used"),
        Metric("syncs", "operations", "fsyncs or fdatasyncs that ended"),
        Metric("slow_syncs", "operations", "those that took over 10 ms, which etcd advises 99 of 100 to stay under"),
        Metric("late_operations", "operations", "started over 1 ms late, though a slot was free: the engine's fault"),
        Metric("unstarted_operations", "operations", "due before the end, and never started: the device's backlog"),
        Metric("corrupt_blocks", "operations", "verifying: a header or CRC that is none of ours"),
        Metric("misplaced_blocks", "operations", "verifying: a sound block of another place or file"),
        Metric("stale_blocks", "operations", "verifying: a sound block from before its last write"),
        Metric("unchecked_reads", "operations", "verifying: of blocks whose last write failed"),
        Metric("short_transfers", "operations", "ended with less than a block"),
        Metric("io_errors", "operations", "failed with EIO"),
        Metric("space_errors", "operations", "failed with ENOSPC"),
        Metric("other_errors", "operations", "failed otherwise"),
        Metric("abandoned_operations", "operations", "still in flight when asked to stop"),
        Metric("cpu_ns", "ns", "CPU time of the engine's threads"),
        Metric("pool_cpu_ns", "ns", "CPU time of the threads that the engine `threads` has make its calls, beside"),
        Metric("run_delay_ns", "ns", "how long the engine's threads were ready and had no CPU"),
        *_DEVICE,
    ),
    parameters=DiskParameters,
    prepare=_prepare,
    cost=cost,
)
