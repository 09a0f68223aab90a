"""A file system of any size on a loop device: a disk whose number, room and limits are known."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted directory, and the number of the device under it ("7:0")."""

    directory: Path
    number: str

    def free_bytes(self) -> int:
        found = os.statvfs(self.directory)
        return found.f_bfree * found.f_frsize


@contextmanager
def loop_disk(where: Path, size_bytes: int, sector_bytes: int = 512) -> Iterator[Disk]:
    """Make an ext4 file system in a file of ``where``, and mount it; all of it is gone at the end."""
    image, directory = where / "image", where / "mounted"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    device = _run("losetup", "--find", "--show", "--sector-size", str(sector_bytes), str(image))
    try:
        _run("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        _run("mount", device, str(directory))
        number = Path(device).stat().st_rdev
        yield Disk(directory, f"{os.major(number)}:{os.minor(number)}")
    finally:
        _unmount(directory)
        _run("losetup", "--detach", device)
        image.unlink()


def _unmount(directory: Path) -> None:
    """The kernel gives up an io_uring's files a moment after it is closed; until then the mount is busy."""
    until = time.monotonic() + 20
    while directory.is_mount():
        try:
            _run("umount", str(directory))
        except RuntimeError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _run(*command: str) -> str:
    """Run a command and return what it says. RuntimeError with its complaint where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()
