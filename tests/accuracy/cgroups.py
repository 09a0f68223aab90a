"""Cgroups of our own, v1 or v2: a limit that is set there is the truth that a probe must report."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Group:
    """An empty group under one controller; ``unified``: of version 2."""

    place: Path
    unified: bool

    def limit_iops(self, device: str, iops: int) -> None:
        """Let ``device`` ("7:0") do so many reads, and so many writes, a second for who is in the group."""
        if self.unified:
            (self.place / "io.max").write_text(f"{device} riops={iops} wiops={iops}")
            return
        for way in ("read", "write"):
            (self.place / f"blkio.throttle.{way}_iops_device").write_text(f"{device} {iops}")

    def limit_bytes(self, device: str, bytes_per_s: int) -> None:
        """Let ``device`` read so many bytes, and write so many, a second for who is in the group."""
        if self.unified:
            (self.place / "io.max").write_text(f"{device} rbps={bytes_per_s} wbps={bytes_per_s}")
            return
        for way in ("read", "write"):
            (self.place / f"blkio.throttle.{way}_bps_device").write_text(f"{device} {bytes_per_s}")

    def served(self, device: str) -> int:
        """How many reads and writes of who is in the group the kernel has passed on to ``device``."""
        stat = self.place / ("io.stat" if self.unified else "blkio.throttle.io_serviced")
        rows = [line.split() for line in stat.read_text().splitlines() if line.startswith(f"{device} ")]
        if self.unified:
            return sum(int(word.partition("=")[2]) for row in rows for word in row if word.startswith(("rios", "wios")))
        return sum(int(count) for _, way, count in rows if way in ("Read", "Write"))

    def limit_cpu(self, share: float) -> None:
        """Let who is in the group use this share of one CPU, in periods of 100 ms."""
        period_us = 100_000
        if self.unified:
            (self.place / "cpu.max").write_text(f"{int(share * period_us)} {period_us}")
            return
        (self.place / "cpu.cfs_period_us").write_text(str(period_us))
        (self.place / "cpu.cfs_quota_us").write_text(str(int(share * period_us)))

    @contextmanager
    def joined(self) -> Iterator[None]:
        """This process, with all its threads, is in the group."""
        before = _own_group(self.place)
        (self.place / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (before / "cgroup.procs").write_text(str(os.getpid()))


@contextmanager
def group(controller: str) -> Iterator[Group]:
    """Make a group; removed at the end. OSError where this machine does not give one."""
    v1 = MOUNT / ("blkio" if controller == "io" else controller)
    unified = not v1.is_dir()
    place = (MOUNT if unified else v1) / f"cvmprobe-{uuid.uuid4().hex[:8]}"
    if unified:
        (MOUNT / "cgroup.subtree_control").write_text(f"+{controller}")
    place.mkdir()
    try:
        yield Group(place, unified)
    finally:
        place.rmdir()


def _own_group(place: Path) -> Path:
    """Return where this process is in the hierarchy that ``place`` is in."""
    controller = place.relative_to(MOUNT).parts[0]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return MOUNT / controller / path.lstrip("/")
        if not controllers and not (MOUNT / controller / "tasks").exists():
            return MOUNT / path.lstrip("/")
    raise OSError(f"/proc/self/cgroup does not say where we are under {MOUNT / controller}")
