"""The cgroups this process is in, as far as it sees them: where quotas are set, and throttling is counted."""

from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_groups", "numbers"]


def cpu_groups(root: Path = Path("/")) -> list[Path]:
    """Return the directories of our group and those around it, the innermost first, that count throttling.

    v2, else v1. In a container its own group is often mounted as the root of the hierarchy: then it is all there is.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for mount in _mounts(root / "sys/fs/cgroup", controllers):
            found = [place for place in _upwards(mount, group) if "nr_throttled" in numbers(place / "cpu.stat")]
            if found:
                return found
    return []


def numbers(path: Path) -> dict[str, int]:
    """Return the lines ``name number`` of a file, such as cpu.stat; nothing where it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(" ") for line in lines)
    return {name: int(value) for name, _, value in pairs if value.strip().isdecimal()}


def _mounts(mount: Path, controllers: str) -> list[Path]:
    if not controllers:
        return [mount, mount / "unified"]
    return [mount / controllers, mount / "cpu"] if "cpu" in controllers.split(",") else []


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    inner = mount / group.lstrip("/")
    while inner != mount:
        yield inner
        inner = inner.parent
    yield mount
