"""The bounce buffers (swiotlb) through which a confidential VM's devices move their data."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cvmprobe.model.environment import Fact
from cvmprobe.probes.facts.reading import fact, read, unknown

__all__ = ["bounce"]

_FOLDER = "sys/kernel/debug/swiotlb"
_SLOT_BYTES = 2048
_LOG = "software IO TLB:"


def bounce(root: Path, log: Sequence[str] | None) -> Iterator[Fact]:
    """Yield size and use, where debugfs or the kernel's log (None: may not be read) tells them."""
    yield fact("swiotlb_bytes", f"/{_FOLDER}/io_tlb_nslabs", lambda: _bytes(root / _FOLDER / "io_tlb_nslabs"))
    yield fact("swiotlb_used_bytes", f"/{_FOLDER}/io_tlb_used", lambda: _bytes(root / _FOLDER / "io_tlb_used"))
    lines = [line.partition(_LOG)[2].strip() for line in log or () if _LOG in line]
    if lines:
        yield Fact("swiotlb_boot", "; ".join(lines), "/dev/kmsg")
    else:
        yield unknown("swiotlb_boot", "/dev/kmsg: may not be read" if log is None else "/dev/kmsg: no word of it")


def _bytes(path: Path) -> str:
    return str(int(read(path)) * _SLOT_BYTES)
