"""What can be asked of the disk probe, in fio's words where it has them, and what that may cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.window import Probe
from cvmprobe.probes.entry import read_parameters
from cvmprobe.probes.parameters import OmitMs

__all__ = ["DiskParameters", "Load", "cost", "read_load"]

_MIB = 1 << 20
_ALL = 100  # %
_WRITE_BYTES_PER_S = 2_000_000_000  # more than this is not expected, and not allowed
_FILL_BYTES_PER_S = 50_000_000
_SECTOR_BYTES = 512
_MIXES = {"randrw", "rw"}
_READS = {"randread", "read"}

Engine = Literal["auto", "io_uring", "libaio", "threads", "sync"]


class DiskParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the disk probe."""

    mode: Annotated[
        Literal["randread", "randwrite", "randrw", "read", "write", "rw", "wal"],
        Meta(description="rand*: at random offsets; wal: append and fdatasync one after the other, as etcd does"),
    ] = "randread"
    read_percent: Annotated[
        Annotated[int, Meta(ge=1, le=99)] | None,
        Meta(description="of randrw and rw: how many of the operations read; 50 unless given"),
    ] = None
    block_bytes: Annotated[
        Annotated[int, Meta(ge=512, le=_MIB)] | None,
        Meta(description="size of one operation; 4096 unless given, wal: 2300"),
    ] = None
    depth: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(description="operations in flight per worker; 32 unless given, wal: 1; threads hold 128, sync 1"),
    ] = None
    workers: Annotated[int, Meta(ge=1, le=64, description="threads, each with a file of its own")] = 1
    file_bytes: Annotated[int, Meta(ge=_MIB, le=1 << 40, description="size of each scratch file")] = 256 * _MIB
    engine: Annotated[Engine, Meta(description="kernel interface; auto: the first of these to be had, wal: sync")] = (
        "auto"
    )
    rate_per_s: Annotated[
        float, Meta(ge=0, le=1e9, description="operations meant to start a second, in all; 0: as many as go")
    ] = 0.0
    fsync: Annotated[int, Meta(ge=0, le=1 << 31, description="an fsync after every so many writes; 0: none")] = 0
    fdatasync: Annotated[
        int, Meta(ge=0, le=1 << 31, description="an fdatasync after every so many writes; 0: none, wal: 1")
    ] = 0
    verify: Annotated[
        bool, Meta(description="write each block under a header with a CRC, and check what is read; costs CPU time")
    ] = False
    omit_ms: OmitMs = 0
    any_filesystem: Annotated[
        bool, Meta(description="measure memory, overlays and file systems without FIEMAP too; the facts say so")
    ] = False


@dataclass(frozen=True, slots=True)
class Load:
    """Parameters made definite: what the engine does."""

    log: bool  # append to a file that is allocated and not written
    sequential: bool
    read_percent: int
    block_bytes: int
    depth: int
    workers: int
    file_bytes: int
    engine: Engine
    rate_per_s: float
    sync_every: int
    data_only: bool  # a sync is fdatasync
    verify: bool
    omit_ms: int
    any_filesystem: bool

    @property
    def writes(self) -> bool:
        """Whether any operation is a write."""
        return self.read_percent < _ALL


def read_load(parameters: Mapping[str, str]) -> Load:
    """Return what is asked for. Raises UsageError, which names the parameter that is wrong or fits no other."""
    read = read_parameters(DiskParameters, Probe.DISK, parameters)
    log = read.mode == "wal"
    load = Load(
        log=log,
        sequential=not read.mode.startswith("rand"),
        read_percent=_read_percent(read),
        block_bytes=read.block_bytes or (2300 if log else 4096),
        depth=read.depth or (1 if log else 32),
        workers=read.workers,
        file_bytes=read.file_bytes,
        engine="sync" if log and read.engine == "auto" else read.engine,
        rate_per_s=read.rate_per_s,
        sync_every=read.fsync or read.fdatasync or int(log),
        data_only=not read.fsync,
        verify=read.verify,
        omit_ms=read.omit_ms,
        any_filesystem=read.any_filesystem,
    )
    _check_sizes(load)
    _check_syncs(read, load)
    return load


def cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    """Return what an execution uses at the most."""
    load = read_load(parameters)
    seconds = duration_ms / 1000
    files = load.workers * load.file_bytes
    if load.log:
        return Cost(seconds + files / _FILL_BYTES_PER_S, 0, files)
    filled = files * (2 if load.verify else 1)
    bytes_per_s = load.rate_per_s * load.block_bytes or _WRITE_BYTES_PER_S
    share = 1 - load.read_percent / _ALL
    if load.rate_per_s and load.writes:  # a paced mix is charged as if it wrote alone
        share = 1
    written = int(seconds * min(bytes_per_s, _WRITE_BYTES_PER_S) * share)
    return Cost(seconds + filled / _FILL_BYTES_PER_S, 0, filled + written)


def _read_percent(read: DiskParameters) -> int:
    if read.mode in _MIXES:
        return 50 if read.read_percent is None else read.read_percent
    if read.read_percent is not None:
        raise UsageError(f"disk: parameter read_percent = {read.read_percent}: only for {', '.join(sorted(_MIXES))}")
    return _ALL if read.mode in _READS else 0


def _check_sizes(load: Load) -> None:
    if load.file_bytes % _MIB:
        raise UsageError(f"disk: parameter file_bytes = {load.file_bytes}: give whole MiB, a multiple of {_MIB}")
    if not load.log and (load.file_bytes % load.block_bytes or load.block_bytes % _SECTOR_BYTES):
        raise UsageError(
            f"disk: parameter block_bytes = {load.block_bytes}: give a multiple of {_SECTOR_BYTES} that divides"
            " file_bytes"
        )


def _check_syncs(read: DiskParameters, load: Load) -> None:
    if read.fsync and read.fdatasync:
        raise UsageError(f"disk: parameters fsync = {read.fsync} and fdatasync = {read.fdatasync}: give one of them")
    if load.sync_every and not load.writes:
        raise UsageError(f"disk: parameters fsync and fdatasync: {read.mode} writes nothing")
    if load.log and load.depth != 1:
        raise UsageError(f"disk: parameter depth = {load.depth}: wal appends one after the other, so 1")
    if load.log and load.verify:
        raise UsageError("disk: parameter verify: wal reads nothing back")
