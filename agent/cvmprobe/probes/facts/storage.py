"""Disks, and what lies between a file and them: file system, encryption, integrity, partitions, devices."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cvmprobe.model.environment import Fact
from cvmprobe.probes.facts.reading import exists, fact, file_fact, names, read, unknown

__all__ = ["block_devices", "volume_stacks"]

_NO_DISKS = ("loop", "ram", "zram", "sr")
_TELLING_OPTIONS = (
    "barrier",
    "commit",
    "compress",
    "data",
    "discard",
    "errors",
    "journal_checksum",
    "nobarrier",
    "sync",
)
_ESCAPED = re.compile(r"\\([0-7]{3})")  # in mountinfo: space, tab, newline and backslash
_UPPER_DRIVERS = frozenset({"sd", "sr"})  # of a kind of disk, not of what moves its data
_OWN_FIELDS, _INNER_FIELDS = 5, 2  # before and behind the dash: proc(5)
_DEEPEST = 16
_MOST_DISKS = 64  # a node may have one for each volume of each pod


@dataclass(frozen=True, slots=True)
class _Mount:
    point: str
    number: str  # major:minor of the device; a file system of many devices makes one up
    filesystem: str
    source: str
    options: str


def block_devices(root: Path) -> Iterator[Fact]:
    """Yield the node's disks and mappings, whatever uses them."""
    folder = "sys/block"
    disks = [name for name in names(root / folder) if _is_disk(root / folder / name)]
    for name in disks[:_MOST_DISKS]:
        device = root / folder / name
        yield file_fact(root, f"disk_{name}_scheduler", f"{folder}/{name}/queue/scheduler")
        yield file_fact(root, f"disk_{name}_rotational", f"{folder}/{name}/queue/rotational")
        yield file_fact(root, f"disk_{name}_write_cache", f"{folder}/{name}/queue/write_cache")
        if exists(device / "dm"):
            yield file_fact(root, f"disk_{name}_dm_name", f"{folder}/{name}/dm/name")
            yield fact(f"disk_{name}_dm_type", f"/{folder}/{name}/dm/uuid", partial(_dm_type, device))
        slaves = names(device / "slaves")
        if slaves:
            yield Fact(f"disk_{name}_slaves", ",".join(slaves), f"/{folder}/{name}/slaves")
    if exists(root / folder):
        yield Fact("disks", str(len(disks)), f"/{folder}; of at most {_MOST_DISKS} more is told")
    else:
        yield unknown("disks", f"/{folder}: cannot be seen")


def _is_disk(device: Path) -> bool:
    """Whether it holds data of its own: no loop, and no single path of a multipath NVMe disk."""
    hidden = _known(lambda: read(device / "hidden")) == "1"
    return not device.name.startswith(_NO_DISKS) and not hidden and exists(device / "queue")


def volume_stacks(root: Path, volumes: Mapping[str, Path]) -> Iterator[Fact]:
    """Yield what each volume lies on: with the devices' names, and as a fingerprint that equal nodes share."""
    for name, path in volumes.items():
        try:
            yield from list(_stack(root, name, path))
        except OSError as error:
            yield unknown(f"volume_{name}_stack", f"{path}: {error.strerror}")


def _stack(root: Path, name: str, path: Path) -> Iterator[Fact]:
    """Yield what one volume lies on. Raises OSError where no link may be followed."""
    mount = _mount_of(root, path)
    if mount is None:
        yield unknown(f"volume_{name}_stack", f"/proc/self/mountinfo: nothing is mounted at or above {path}")
        return
    yield Fact(f"volume_{name}_filesystem", mount.filesystem, "/proc/self/mountinfo")
    yield Fact(f"volume_{name}_mount_options", mount.options, "/proc/self/mountinfo")
    place, source = _device(root, mount)
    layers = list(_layers(root, place))
    if not layers:
        yield unknown(f"volume_{name}_stack", f"{source}: no block device lies below {mount.filesystem}")
        return
    yield Fact(f"volume_{name}_stack", " > ".join(f"{layer} {kind}" for layer, kind in layers), source)
    whole = [f"{mount.filesystem} {mount.options}", *(kind for _, kind in layers)]
    yield Fact(f"volume_{name}_fingerprint", " > ".join(whole), f"{source}, without names")


def _device(root: Path, mount: _Mount) -> tuple[Path, str]:
    """Return the device below a mount in sysfs, and how it was found; btrfs and its like only name it."""
    place = root / "sys/dev/block" / mount.number
    if exists(place) or not mount.source.startswith("/dev/"):
        return place, f"/sys/dev/block/{mount.number}"
    blocks = root / "sys/class/block"
    name = mount.source.rpartition("/")[2]
    mapped = (block for block in names(blocks) if _known(partial(read, blocks / block / "dm/name")) == name)
    return blocks / next(mapped, name), f"/proc/self/mountinfo: {mount.filesystem} names its first device"


def _layers(root: Path, place: Path) -> Iterator[tuple[str, str]]:
    """Yield (device, what it is) from the top down, each once; where a layer has many slaves, each in turn."""
    pending = [(0, place.resolve())] if exists(place) else []
    seen = set()
    while pending:
        depth, device = pending.pop(0)
        if device in seen:
            continue
        seen.add(device)
        yield device.name, _kind(device)
        below = [(root / "sys/class/block" / name).resolve() for name in names(device / "slaves")]
        if exists(device / "partition"):
            below.append(device.parent)
        if depth < _DEEPEST:
            pending += [(depth + 1, each) for each in below]


def _kind(device: Path) -> str:
    """Tell a device's kind: dm:CRYPT-LUKS2, md:raid1, loop, partition, or disk with driver, scheduler and medium."""
    if exists(device / "partition"):
        return "partition"
    if exists(device / "dm"):
        return f"dm:{_known(partial(_dm_type, device))}"
    if exists(device / "md"):
        return f"md:{_known(lambda: read(device / 'md/level'))}"
    if exists(device / "loop"):
        return "loop"
    scheduler = _known(lambda: read(device / "queue/scheduler"))
    chosen = scheduler.partition("[")[2].partition("]")[0] or scheduler
    rotating = {"0": "solid", "1": "rotating"}.get(_known(lambda: read(device / "queue/rotational")), "unknown")
    return f"disk({_driver(device)}, scheduler {chosen}, {rotating})"


def _driver(device: Path) -> str:
    """Return the driver that moves a disk's data: of the device, else of the first thing above it that has one.

    A SCSI disk's own is sd, whatever carries it; an NVMe disk's controller is a step above it.
    """
    found = "no driver"
    above = (device / "device").resolve()
    while above.name and above.name != "devices":
        if exists(above / "driver"):
            found = (above / "driver").resolve().name
            if found not in _UPPER_DRIVERS:
                break
        above = above.parent
    return found


def _known(value: Callable[[], str | None]) -> str:
    try:
        return value() or "unknown"
    except OSError:
        return "unknown"


def _dm_type(device: Path) -> str | None:
    """Return the part of a device-mapper uuid that names the kind, such as CRYPT-LUKS2; the rest names the volume."""
    words = read(device / "dm/uuid").split("-")
    return "-".join(words[: 2 if words[0] == "CRYPT" else 1]) or None


def _mount_of(root: Path, path: Path) -> _Mount | None:
    """Return the mount that holds ``path``: the longest mount point above it, the last one where several cover it."""
    best = None
    where = os.path.realpath(path)
    for mount in _mounts(root):
        inside = where == mount.point or where.startswith(f"{mount.point.rstrip('/')}/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _mounts(root: Path) -> Iterator[_Mount]:
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="surrogateescape").split("\n")
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        own, inner = before.split(" "), after.split(" ")
        if len(own) > _OWN_FIELDS and len(inner) > _INNER_FIELDS:
            options = _telling(f"{own[5]},{inner[2]}")
            yield _Mount(_unescaped(own[4]), own[2], inner[0], _unescaped(inner[1]), options)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _telling(options: str) -> str:
    """Keep the options that change a figure; some others name servers, users and devices."""
    kept = [word for word in options.split(",") if "=" not in word or word.partition("=")[0] in _TELLING_OPTIONS]
    return ",".join(dict.fromkeys(kept))
