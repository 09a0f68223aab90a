"""The disk probe's scratch files: filled with random data, proven to lie on the device, gone with their process.

The file never has a name (or loses it at once where the file system cannot make it without), so the kernel
frees it when the last descriptor closes: after success, an error, or kill -9. A name that a kill left in the moment
before it was to go is taken away by the next start. Nobody else can open an unnamed file, so a re-used one is known to
hold what was written here; its extents are proven again each time all the same.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import pathlib
import re
import struct
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cvmprobe.errors import EngineError, UnsoundError, UsageError

__all__ = ["SHELF", "Scratch", "Shelf", "allocate", "check_block", "check_limits", "fill", "prepare", "prove"]

MIB = 1 << 20
FREE_SHARE = 0.15  # kubelet evicts pods when a node's disk has 10 % (image disk: 15 %) left
KEEP_S = 30.0  # how long a file waits for the next execution, such as randwrite after randread
NOT_A_DISK = {
    "tmpfs": "is memory",
    "ramfs": "is memory",
    "overlay": "is a container's own layer: give a volume",
}

FS_IOC_FIEMAP = 0xC020660B
FIEMAP_HEAD = struct.Struct("=QQIIII")  # start, length, flags, mapped extents, room, reserved
FIEMAP_EXTENT = struct.Struct("=QQQ2QI3I")  # logical, physical, length, reserved, flags, reserved
FIEMAP_FLAG_SYNC = 0x1
FIEMAP_ROOM = 256  # extents per call
_OUR_NAME = re.compile(r"\.cvmprobe-[0-9a-f]{32}")
UNSOUND_EXTENTS = {0x2: "unknown", 0x4: "delayed", 0x200: "inline", 0x800: "unwritten"}


@dataclass(frozen=True, slots=True)
class Scratch:
    """An unnamed file; open for direct I/O and written all over, unless it is allocate()'s.

    ``filled_bytes`` is what this preparation wrote (0: re-used); ``facts`` name the file system and the proof.
    """

    fd: int
    size_bytes: int
    filled_bytes: int
    facts: Mapping[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Free the file and its blocks."""
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class _Mount:
    filesystem: str
    source: str


def prepare(
    volume: pathlib.Path,
    size_bytes: int,
    *,
    max_bytes: int,
    any_filesystem: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> Scratch:
    """Make a scratch file of ``size_bytes`` (whole MiB) in ``volume`` and prove that it is written.

    ``max_bytes`` is all that may be written; ``any_filesystem`` allows memory, overlays and file systems
    that cannot tell their extents, and the facts say so. Raises UsageError where a limit forbids it,
    UnsoundError where a figure taken there would be wrong, EngineError where the kernel refuses.
    """
    mount = _check_disk(volume, any_filesystem=any_filesystem)
    check_limits(volume, size_bytes, max_bytes)
    with contextlib.ExitStack() as undo:
        fd = _open_unnamed(volume, os.O_DIRECT)
        undo.callback(os.close, fd)
        fill(fd, size_bytes, f"fill a scratch file of {size_bytes} bytes in {volume}", stopping)
        facts = {
            "filesystem": mount.filesystem,
            "device": mount.source,
            "extents": prove(fd, size_bytes, required=not any_filesystem),
            "scratch": "filled",
        }
        undo.pop_all()
    return Scratch(fd, size_bytes, size_bytes, facts)


def allocate(volume: pathlib.Path, size_bytes: int, *, max_bytes: int, any_filesystem: bool = False) -> Scratch:
    """Make the file of a write-ahead log: allocated, not written, through the page cache, as etcd makes a segment.

    The first write of a block has the file system turn it from allocated to written, which a log pays for and a
    file that was filled before does not. Fit for appending alone. Raises like prepare().
    """
    mount = _check_disk(volume, any_filesystem=any_filesystem)
    check_limits(volume, size_bytes, max_bytes)
    doing = f"allocate a log of {size_bytes} bytes in {volume}"
    with contextlib.ExitStack() as undo:
        fd = _open_unnamed(volume, 0)
        undo.callback(os.close, fd)
        try:
            os.posix_fallocate(fd, 0, size_bytes)
        except OSError as error:
            raise EngineError("posix_fallocate", error.errno or 0, doing) from error
        _flush(fd, doing)
        undo.pop_all()
    facts = {"filesystem": mount.filesystem, "device": mount.source, "scratch": "allocated, to be appended to"}
    return Scratch(fd, size_bytes, 0, facts)


class Shelf:
    """Scratch files between two executions: each is freed when nobody has taken it for ``keep_s``."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._files: dict[tuple[int, int, int], list[tuple[Scratch, threading.Timer]]] = {}

    def take(self, volume: pathlib.Path, size_bytes: int) -> Scratch | None:
        """Return a file of this size in this directory, proven anew, or None."""
        scratch = self._pop(_key(volume, size_bytes))
        if scratch is None:
            return None
        try:
            required = not scratch.facts["extents"].startswith("unproven")
            facts = dict(scratch.facts, scratch="re-used", extents=prove(scratch.fd, size_bytes, required=required))
        except BaseException:
            scratch.close()
            raise
        return Scratch(scratch.fd, size_bytes, 0, facts)

    def put(self, volume: pathlib.Path, scratch: Scratch) -> None:
        """Keep ``scratch`` for a while for whoever measures this directory next; free it where that has vanished."""
        try:
            key = _key(volume, scratch.size_bytes)
        except UsageError:
            scratch.close()
            return
        timer = threading.Timer(self._keep_s, self._free, [key, scratch])
        timer.daemon = True  # the process may end before: its descriptors, and so the files, end with it
        with self._lock:
            self._files.setdefault(key, []).append((scratch, timer))
        try:
            timer.start()
        except RuntimeError:  # no thread to be had: nobody would free it later
            self._free(key, scratch)

    def clear(self) -> None:
        """Free every file at once."""
        for key in list(self._files):
            while (scratch := self._pop(key)) is not None:
                scratch.close()

    def _pop(self, key: tuple[int, int, int], which: Scratch | None = None) -> Scratch | None:
        """Take a file off the shelf: ``which``, or else the one that was put there last."""
        with self._lock:
            files = self._files.get(key, [])
            found = next((entry for entry in reversed(files) if which in (None, entry[0])), None)
            if found is None:
                return None
            files.remove(found)
            if not files:
                del self._files[key]
        scratch, timer = found
        timer.cancel()
        return scratch

    def _free(self, key: tuple[int, int, int], which: Scratch) -> None:
        scratch = self._pop(key, which)
        if scratch is not None:
            scratch.close()


SHELF = Shelf()


def fill(fd: int, size_bytes: int, doing: str, stopping: Callable[[], bool] = lambda: False) -> None:
    """Write random data over the whole file, 1 MiB at a time, and wait until the device has it.

    ``fd`` is open for direct I/O. Raises EngineError (write, fsync); UsageError when ``stopping`` turns true.
    """
    with _aligned_block(doing) as block:
        for offset in range(0, size_bytes, MIB):
            if stopping():
                raise UsageError(f"{doing}: stopped on request after {offset} bytes")
            block[:] = os.urandom(MIB)
            try:
                written = os.pwrite(fd, block, offset)
            except OSError as error:
                raise EngineError("write", error.errno or 0, doing) from error
            if written != MIB:
                raise EngineError("write", errno.ENOSPC, f"{doing}: only {written} bytes written at {offset}")
    _flush(fd, doing)


def _aligned_block(doing: str, block_bytes: int = MIB) -> mmap.mmap:
    """Return memory aligned to pages, as direct I/O wants it."""
    try:
        return mmap.mmap(-1, block_bytes)
    except OSError as error:
        raise EngineError("mmap", error.errno or 0, doing) from error


def prove(fd: int, size_bytes: int, *, required: bool = True) -> str:
    """Say how many extents hold the file; every one of them written, none missing.

    Reads of an extent that was allocated and never written are answered without the device. Raises UnsoundError
    for such a file, and, unless not ``required``, where the file system cannot tell.
    """
    end, extents = 0, 0
    while end < size_bytes:
        try:
            found = _fiemap(fd, end, size_bytes - end)
        except OSError as error:
            if required:
                raise UnsoundError(
                    f"the file system does not tell its extents (FIEMAP: {os.strerror(error.errno or 0)}), so the"
                    " file is not proven to be on a device; set any_filesystem=true to measure it all the same"
                ) from error
            return f"unproven: FIEMAP: {errno.errorcode.get(error.errno or 0, 'failed')}"
        for logical, length, flags in found:
            why = [word for bit, word in UNSOUND_EXTENTS.items() if flags & bit]
            if logical > end or why:
                raise UnsoundError(
                    f"scratch file is not written at byte {end}: {', '.join(why) or 'hole'};"
                    " its reads would be answered without the device"
                )
            end = logical + length
            extents += 1
        if not found:
            raise UnsoundError(f"scratch file ends at byte {end} of {size_bytes}: hole")
    return f"{extents} written"


def _fiemap(fd: int, start: int, length: int) -> list[tuple[int, int, int]]:
    """Return (logical offset, length, flags) of the extents from ``start`` on, as many as fit one call."""
    buffer = bytearray(FIEMAP_HEAD.size + FIEMAP_ROOM * FIEMAP_EXTENT.size)
    FIEMAP_HEAD.pack_into(buffer, 0, start, length, FIEMAP_FLAG_SYNC, 0, FIEMAP_ROOM, 0)
    fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
    mapped = FIEMAP_HEAD.unpack_from(buffer)[3]
    rows = (FIEMAP_EXTENT.unpack_from(buffer, FIEMAP_HEAD.size + i * FIEMAP_EXTENT.size) for i in range(mapped))
    return [(row[0], row[2], row[5]) for row in rows]


def check_limits(volume: pathlib.Path, size_bytes: int, max_bytes: int) -> None:
    """Raise UsageError where ``size_bytes`` more may not be written, or would fill up the file system."""
    if size_bytes % MIB:
        raise UsageError(f"file_bytes={size_bytes} is not a whole number of MiB: give a multiple of {MIB}")
    if size_bytes > max_bytes:
        raise UsageError(
            f"file_bytes={size_bytes} is more than may be written ({max_bytes} bytes): ask for a smaller file"
            " or raise the disk budget"
        )
    try:
        space = os.statvfs(volume)
    except OSError as error:
        raise EngineError("statvfs", error.errno or 0, f"see how much room is in {volume}") from error
    floor = int(space.f_blocks * space.f_frsize * FREE_SHARE)
    free = space.f_bavail * space.f_frsize
    if free - size_bytes < floor:
        raise UsageError(
            f"file_bytes={size_bytes} would leave less than {FREE_SHARE:.0%} ({floor} bytes) of {volume} free"
            f" ({free} bytes are now): ask for a smaller file or make room"
        )


def check_block(fd: int, block_bytes: int, volume: pathlib.Path) -> None:
    """Raise UsageError where direct I/O is not to be had in blocks of this size, as of 512 bytes on a 4K device."""
    doing = f"read a scratch file in {volume}"
    with _aligned_block(doing, block_bytes) as block:
        try:
            os.preadv(fd, [block], 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise EngineError("preadv", error.errno or 0, doing) from error
            raise UsageError(
                f"block_bytes={block_bytes}: the device under {volume} takes larger blocks alone:"
                " give a multiple of 4096"
            ) from error


def _check_disk(volume: pathlib.Path, *, any_filesystem: bool) -> _Mount:
    mount = _mount_of(volume)
    if not any_filesystem and mount.filesystem in NOT_A_DISK:
        raise UnsoundError(
            f"volume {volume} is on {mount.filesystem}, which {NOT_A_DISK[mount.filesystem]};"
            " name another directory, or set any_filesystem=true to measure it all the same"
        )
    return mount


def _flush(fd: int, doing: str) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise EngineError("fsync", error.errno or 0, doing) from error


def _open_unnamed(volume: pathlib.Path, direct: int) -> int:
    flags = os.O_RDWR | direct | os.O_CLOEXEC
    try:
        try:
            return os.open(volume, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR}:
                raise
        _remove_leftovers(volume)
        path = volume / f".cvmprobe-{uuid.uuid4().hex}"
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        path.unlink(missing_ok=True)  # another start may have taken it for left over
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise UnsoundError(f"volume {volume} has no direct I/O: reads would come from the page cache") from error
        raise EngineError("open", error.errno or 0, f"make a scratch file in {volume}") from error
    return fd


def _remove_leftovers(volume: pathlib.Path) -> None:
    """Take away names that a killed process had no time to; a file in use loses only its name, as it was about to."""
    for path in volume.glob(".cvmprobe-*"):
        if _OUR_NAME.fullmatch(path.name):
            with contextlib.suppress(OSError):  # a directory, or not ours to remove
                path.unlink()


def _mount_of(volume: pathlib.Path) -> _Mount:
    """Return the mount that holds a directory: the last of the longest mount points above it."""
    try:
        real = volume.resolve(strict=True)
        lines = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UsageError(f"volume {volume}: {error.strerror}") from error
    best = (-1, _Mount("unknown", "unknown"))
    for line in lines:
        before, _, after = line.partition(" - ")
        point = pathlib.Path(before.split()[4].encode().decode("unicode_escape"))
        filesystem, source = after.split()[:2]
        if real.is_relative_to(point) and len(point.parts) >= best[0]:
            best = (len(point.parts), _Mount(filesystem, source))
    return best[1]


def _key(volume: pathlib.Path, size_bytes: int) -> tuple[int, int, int]:
    try:
        place = volume.stat()
    except OSError as error:
        raise UsageError(f"volume {volume}: {error.strerror}") from error
    return place.st_dev, place.st_ino, size_bytes
