"""The cgroups this process is in, as far as it sees them: where quotas are set, and throttling is counted."""

from collections.abc import Iterator
from pathlib import Path

from cvmprobe.probes.facts.reading import exists

__all__ = ["cpu_groups", "memory_limit_file", "numbers"]

_MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")  # v2, v1


def cpu_groups(root: Path = Path("/")) -> list[Path]:
    """Return the directories of our group and those around it, the innermost first, that count throttling.

    v2, else v1. In a container its own group is often mounted as the root of the hierarchy: then it is all there is.
    """
    for mount, group in _places(root, "cpu"):
        found = [place for place in _upwards(mount, group) if "nr_throttled" in numbers(place / "cpu.stat")]
        if found:
            return found
    return []


def memory_limit_file(root: Path = Path("/")) -> Path | None:
    """Return the file that holds the memory limit of our group, or of the nearest one around it that we can see."""
    for mount, group in _places(root, "memory"):
        for place in _upwards(mount, group):
            found = next((place / name for name in _MEMORY_LIMITS if exists(place / name)), None)
            if found is not None:
                return found
    return None


def _places(root: Path, controller: str) -> Iterator[tuple[Path, str]]:
    """Yield where a controller's hierarchy may be mounted, and our group in it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for mount in _mounts(root / "sys/fs/cgroup", controllers, controller):
            yield mount, group


def numbers(path: Path) -> dict[str, int]:
    """Return the lines ``name number`` of a file, such as cpu.stat; nothing where it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(" ") for line in lines)
    return {name: int(value) for name, _, value in pairs if value.strip().isdecimal()}


def _mounts(mount: Path, controllers: str, wanted: str) -> list[Path]:
    if not controllers:
        return [mount, mount / "unified"]
    return [mount / controllers, mount / wanted] if wanted in controllers.split(",") else []


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    inner = mount / group.lstrip("/")
    while inner != mount:
        yield inner
        inner = inner.parent
    yield mount
