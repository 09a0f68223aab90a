"""The block device under a file, and what the kernel counts of it: /proc/diskstats, also of what it is made of.

A dm device (LUKS, integrity, LVM) or a RAID has slaves in sysfs; the devices below all of them do the real work, so
their writes over ours are the write amplification of the stack.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["BlockDevice"]

_SECTOR_BYTES = 512  # the unit of /proc/diskstats, whatever the device's own is
_NS_PER_MS = 1_000_000
# Columns of a row, counted from its first; those from 17 on came with Linux 5.5.
_READS, _READ_SECTORS, _WRITES, _WRITTEN_SECTORS, _BUSY_MS, _FLUSHES = 3, 5, 7, 9, 12, 18


class BlockDevice:
    """The device that holds an open file. Where there is none, or it tells nothing, facts and counters are absent.

    block_reads, block_writes, block_flushes            operations the device ended, everybody's
    block_read_bytes, block_write_bytes                  what they moved
    block_busy_ns                                        time with at least one in flight: over the window, utilisation
    backing_read_bytes, backing_write_bytes              of the devices at the bottom, where it is made of others
    """

    def __init__(self, fd: int, root: Path = Path("/")) -> None:
        self._root = root
        number = os.fstat(fd).st_dev
        self._number = f"{os.major(number)}:{os.minor(number)}"
        place = root / "sys/dev/block" / self._number
        self._backing = [_text(bottom / "dev") for bottom in _bottoms(place)]
        self.facts = _facts(place)
        self._seen = self._read()

    def counters(self) -> dict[str, int]:
        """Return the differences since the last call."""
        before, self._seen = self._seen, self._read()
        return {name: value - before[name] for name, value in self._seen.items() if name in before}

    def _read(self) -> dict[str, int]:
        rows = _diskstats(self._root)
        own = rows.get(self._number)
        if own is None:
            return {}
        counted = {
            "block_reads": own[_READS],
            "block_read_bytes": own[_READ_SECTORS] * _SECTOR_BYTES,
            "block_writes": own[_WRITES],
            "block_write_bytes": own[_WRITTEN_SECTORS] * _SECTOR_BYTES,
            "block_busy_ns": own[_BUSY_MS] * _NS_PER_MS,
        }
        if len(own) > _FLUSHES:
            counted["block_flushes"] = own[_FLUSHES]
        if self._backing and all(number in rows for number in self._backing):
            backing = [rows[number] for number in self._backing]
            counted["backing_read_bytes"] = sum(row[_READ_SECTORS] for row in backing) * _SECTOR_BYTES
            counted["backing_write_bytes"] = sum(row[_WRITTEN_SECTORS] for row in backing) * _SECTOR_BYTES
        return counted


def _diskstats(root: Path) -> dict[str, list[int]]:
    """Return the rows by device number; the name is 0, so that columns keep their place."""
    try:
        lines = (root / "proc/diskstats").read_text().splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines)
    return {f"{row[0]}:{row[1]}": [0, 0, 0, *map(int, row[3:])] for row in rows if len(row) > _BUSY_MS}


def _facts(place: Path) -> Mapping[str, str]:
    if not place.exists():
        return {}
    name = _name(place)
    below = sorted(_name(bottom) for bottom in _bottoms(place))
    return {"block_device": f"{name} on {', '.join(below)}" if below else name}


def _name(place: Path) -> str:
    """Return the kernel's name of a device, with the one it was given where it is a dm device."""
    label = _text(place / "dm/name")
    name = place.resolve().name
    return f"{name} ({label})" if label else name


def _bottoms(place: Path) -> list[Path]:
    """Return the devices at the bottom of what this one is made of, each once; none where it is the bottom."""
    found = {bottom.resolve(): bottom for slave in _slaves(place) for bottom in _bottoms(slave) or [slave]}
    return list(found.values())


def _slaves(place: Path) -> Iterator[Path]:
    try:
        yield from sorted((place / "slaves").iterdir())
    except OSError:
        return


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
