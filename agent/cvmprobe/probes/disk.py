"""The disk probe: random reads or writes of a scratch file, so many in flight, past the page cache."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.window import Flag, Phase, Probe, Window
from cvmprobe.probes.entry import Entry, Metric, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.scratch import SHELF, Scratch, prepare

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.engine import Engine

__all__ = ["ENTRY", "DiskParameters"]

_MIB = 1 << 20
_WRITE_BYTES_PER_S = 2_000_000_000  # more than this is not expected, and not allowed
_FILL_BYTES_PER_S = 50_000_000
_SAMPLE_ROWS = 1 << 18  # half a second at 500 000 operations a second
_LITTLE_SHARE = 0.01
_LITTLE_OPERATIONS = 100  # per slot: with fewer, the ends of the measurement weigh too much


class DiskParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the disk probe."""

    mode: Annotated[Literal["randread", "randwrite"], Meta(description="what is done at random offsets")] = "randread"
    block_bytes: Annotated[int, Meta(ge=512, le=_MIB, description="size of one operation")] = 4096
    depth: Annotated[int, Meta(ge=1, le=1024, description="operations in flight")] = 32
    file_bytes: Annotated[int, Meta(ge=_MIB, le=1 << 40, description="size of the scratch file")] = 256 * _MIB
    engine: Annotated[
        Literal["auto", "io_uring", "libaio"], Meta(description="kernel interface; auto: io_uring, else libaio")
    ] = "auto"
    omit_ms: Annotated[int, Meta(ge=0, description="warm-up, left out of the headline; whole intervals")] = 0
    any_filesystem: Annotated[
        bool, Meta(description="measure memory, overlays and file systems without FIEMAP too; the facts say so")
    ] = False


class _DiskFace:
    """Prepares the scratch file, runs the engine on it, and judges whether the depth was held."""

    operations: Sequence[str] = ()

    def __init__(self, setup: Setup, volume: Path, parameters: DiskParameters) -> None:
        self._setup = setup
        self._volume = volume
        self._parameters = parameters
        self._scratch: Scratch | None = None
        self._fill_bytes = 0

    @property
    def omit_ms(self) -> int:
        return self._parameters.omit_ms

    def open(self, stopping: Callable[[], bool]) -> "Engine":
        from cvmprobe.native.disk import Disk  # noqa: PLC0415 - the catalog is readable where no engine is built

        parameters, setup = self._parameters, self._setup
        scratch = self._scratch = SHELF.take(self._volume, parameters.file_bytes) or prepare(
            self._volume,
            parameters.file_bytes,
            max_bytes=setup.max_bytes,
            any_filesystem=parameters.any_filesystem,
            stopping=stopping,
        )
        self._fill_bytes = scratch.filled_bytes
        may_write = setup.max_bytes - scratch.filled_bytes
        if parameters.mode == "randwrite" and may_write < parameters.block_bytes:
            raise UsageError(
                f"disk: making the scratch file used up the {setup.max_bytes} bytes that may be written:"
                " ask for a smaller file or raise the disk budget"
            )
        engine = Disk(
            fd=scratch.fd,
            file_bytes=scratch.size_bytes,
            block_bytes=parameters.block_bytes,
            depth=parameters.depth,
            write=parameters.mode == "randwrite",
            max_write_bytes=may_write,
            engine=parameters.engine,
            seed=secrets.randbits(64),
            ring_rows=_SAMPLE_ROWS if setup.raw_samples else 0,
            duration_ms=setup.duration_ms,
            notes=scratch.facts,
        )
        engine.arm()
        return engine

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        return Completed(_judge_depth(windows, self._parameters.depth), {**totals, "fill_bytes": self._fill_bytes})

    def close(self) -> None:
        if self._scratch is not None:
            SHELF.put(self._volume, self._scratch)
            self._scratch = None


def _judge_depth(windows: tuple[Window, ...], depth: int) -> tuple[Window, ...]:
    """Flag the steady windows when mean latency x rate, over all of them, is not the depth (Little's law)."""
    steady = [window for window in windows if window.phase is Phase.STEADY and "total_ns" in window.histograms]
    operations = sum(window.histograms["total_ns"].count for window in steady)
    if depth == 1 or operations < _LITTLE_OPERATIONS * depth:
        return windows
    spent_ns = sum(window.histograms["total_ns"].sum for window in steady)
    in_flight = spent_ns / sum(window.duration_ns for window in steady)
    if abs(in_flight / depth - 1) <= _LITTLE_SHARE:
        return windows
    return tuple(
        replace(window, flags=window.flags | {Flag.LITTLE}) if window.phase is Phase.STEADY else window
        for window in windows
    )


def _read(parameters: Mapping[str, str]) -> DiskParameters:
    read = read_parameters(DiskParameters, Probe.DISK, parameters)
    if read.file_bytes % _MIB:
        raise UsageError(f"disk: parameter file_bytes = {read.file_bytes}: give whole MiB, a multiple of {_MIB}")
    if read.file_bytes % read.block_bytes or read.block_bytes % 512:
        raise UsageError(
            f"disk: parameter block_bytes = {read.block_bytes}: give a multiple of 512 that divides file_bytes"
        )
    return read


def _prepare(setup: Setup) -> Execution:
    parameters = _read(setup.instance.parameters)
    if setup.volume is None:
        raise UsageError("disk: no volume to measure: name one of this endpoint's volumes")
    return Execution(setup, _DiskFace(setup, setup.volume, parameters))


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    read = _read(parameters)
    seconds = duration_ms / 1000
    written = int(seconds * _WRITE_BYTES_PER_S) if read.mode == "randwrite" else 0
    return Cost(seconds + read.file_bytes / _FILL_BYTES_PER_S, 0, read.file_bytes + written)


ENTRY = Entry(
    probe=Probe.DISK,
    title="Asynchronous random reads or writes of a file, past the page cache",
    metrics=(
        Metric("reads", "operations", "reads that ended", headline=True),
        Metric("writes", "operations", "writes that ended", headline=True),
        Metric("total_ns", "ns", "from before the submitting call until the end was seen", headline=True),
        Metric("submit_ns", "ns", "the submitting call, which up to four operations share"),
        Metric("device_ns", "ns", "from after the submitting call until the end was seen"),
        Metric("read_bytes", "bytes", "what the reads moved"),
        Metric("write_bytes", "bytes", "what the writes moved; the scratch file's making apart"),
        Metric("fill_bytes", "bytes", "what making the scratch file wrote (total only); 0: an earlier one was re-used"),
        Metric("short_transfers", "operations", "ended with less than a block"),
        Metric("io_errors", "operations", "failed with EIO"),
        Metric("space_errors", "operations", "failed with ENOSPC"),
        Metric("other_errors", "operations", "failed otherwise"),
        Metric("abandoned_operations", "operations", "still in flight when asked to stop"),
        Metric("cpu_ns", "ns", "CPU time of the engine's thread"),
        Metric("run_delay_ns", "ns", "how long the engine's thread was ready and had no CPU"),
    ),
    parameters=DiskParameters,
    prepare=_prepare,
    cost=_cost,
)
