"""Disks, and what lies between a file and them: file system, encryption, integrity, partitions, devices."""

import os
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
_DEEPEST = 16
_MOST_DISKS = 64  # a node may have one for each volume of each pod


@dataclass(frozen=True, slots=True)
class _Mount:
    point: str
    number: str  # major:minor of the device
    filesystem: str
    options: str


def block_devices(root: Path) -> Iterator[Fact]:
    """Yield the node's disks and mappings, whatever uses them."""
    folder = "sys/block"
    disks = [name for name in names(root / folder) if not name.startswith(_NO_DISKS)]
    for name in disks[:_MOST_DISKS]:
        device = root / folder / name
        if not exists(device / "queue"):
            continue
        yield file_fact(root, f"disk_{name}_scheduler", f"{folder}/{name}/queue/scheduler")
        yield file_fact(root, f"disk_{name}_rotational", f"{folder}/{name}/queue/rotational")
        yield file_fact(root, f"disk_{name}_write_cache", f"{folder}/{name}/queue/write_cache")
        if exists(device / "dm"):
            yield file_fact(root, f"disk_{name}_dm_name", f"{folder}/{name}/dm/name")
            yield fact(f"disk_{name}_dm_type", f"/{folder}/{name}/dm/uuid", partial(_dm_type, device))
            yield Fact(f"disk_{name}_slaves", ",".join(names(device / "slaves")), f"/{folder}/{name}/slaves")


def volume_stacks(root: Path, volumes: Mapping[str, Path]) -> Iterator[Fact]:
    """Yield what each volume lies on: with the devices' names, and as a fingerprint that equal nodes share."""
    for name, path in volumes.items():
        mount = _mount_of(root, path)
        if mount is None:
            reason = f"/proc/self/mountinfo: nothing is mounted at or above {path}"
            yield unknown(f"volume_{name}_stack", reason)
            continue
        yield Fact(f"volume_{name}_filesystem", mount.filesystem, "/proc/self/mountinfo")
        yield Fact(f"volume_{name}_mount_options", mount.options, "/proc/self/mountinfo")
        layers = list(_layers(root, mount.number))
        source = f"/sys/dev/block/{mount.number}"
        if not layers:
            yield unknown(f"volume_{name}_stack", f"{source}: no block device lies below {mount.filesystem}")
            continue
        yield Fact(f"volume_{name}_stack", " > ".join(f"{layer} {kind}" for layer, kind in layers), source)
        whole = [f"{mount.filesystem} {mount.options}", *(kind for _, kind in layers)]
        yield Fact(f"volume_{name}_fingerprint", " > ".join(whole), f"{source}, without names")


def _layers(root: Path, number: str) -> Iterator[tuple[str, str]]:
    """Yield (device, what it is) from the top down; where a layer has many slaves, each in turn."""
    link = root / "sys/dev/block" / number
    if not exists(link):
        return
    pending = [(0, link.resolve())]
    while pending:
        depth, device = pending.pop(0)
        yield device.name, _kind(device)
        below = [(root / "sys/class/block" / name).resolve() for name in names(device / "slaves")]
        if exists(device / "partition"):
            below.append(device.parent)
        if depth < _DEEPEST:
            pending += [(depth + 1, each) for each in below]


def _kind(device: Path) -> str:
    """Tell a device's kind: dm:CRYPT-LUKS2, partition, or disk with its driver, scheduler and kind of medium."""
    if exists(device / "partition"):
        return "partition"
    if exists(device / "dm"):
        return f"dm:{_known(partial(_dm_type, device))}"
    scheduler = _known(lambda: read(device / "queue/scheduler"))
    chosen = scheduler.partition("[")[2].partition("]")[0] or scheduler
    rotating = {"0": "solid", "1": "rotating"}.get(_known(lambda: read(device / "queue/rotational")), "unknown")
    driver = (device / "device/driver").resolve().name if exists(device / "device/driver") else "no driver"
    return f"disk({driver}, scheduler {chosen}, {rotating})"


def _known(value: Callable[[], str]) -> str:
    try:
        return value()
    except OSError:
        return "unknown"


def _dm_type(device: Path) -> str:
    """Return the part of a device-mapper uuid that names the kind, such as CRYPT-LUKS2; the rest names the volume."""
    words = read(device / "dm/uuid").split("-")
    return "-".join(words[: 2 if words[0] == "CRYPT" else 1]) or "unknown"


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
        lines = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        _, _, number, _, point, options, *_ = before.split(" ")
        filesystem, _, inner = after.split(" ", 2)
        point = point.encode().decode("unicode_escape")
        yield _Mount(point, number, filesystem, _telling(f"{options},{inner}"))


def _telling(options: str) -> str:
    """Keep the options that change a figure; some others name servers, users and devices."""
    kept = [word for word in options.split(",") if "=" not in word or word.partition("=")[0] in _TELLING_OPTIONS]
    return ",".join(dict.fromkeys(kept))
