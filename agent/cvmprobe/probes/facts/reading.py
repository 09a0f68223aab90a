"""Small files as facts."""

from collections.abc import Callable
from pathlib import Path

from cvmprobe.model.environment import Fact

__all__ = ["exists", "fact", "field_of", "file_fact", "names", "read", "unknown"]

_VALUE_BYTES = 4096


def read(path: Path) -> str:
    """Return a small file's text, stripped. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_VALUE_BYTES).decode("utf-8", "replace").strip()


def fact(name: str, source: str, value: Callable[[], str | None]) -> Fact:
    """Return a fact, unknown where ``value()`` is None or raises OSError or ValueError; the source then says why."""
    try:
        found = value()
        return unknown(name, f"{source}: does not tell it") if found is None else Fact(name, found, source)
    except OSError as error:
        return unknown(name, f"{source}: {error.strerror or error}")
    except ValueError as error:
        return unknown(name, f"{source}: {error}")


def file_fact(root: Path, name: str, path: str) -> Fact:
    """Return what a file holds; an empty one tells nothing."""
    return fact(name, f"/{path}", lambda: read(root / path) or None)


def unknown(name: str, reason: str) -> Fact:
    """Return a fact that could not be had."""
    return Fact(name, None, reason)


def field_of(path: Path, name: str, separator: str = ":") -> str | None:
    """Return what stands behind ``name`` and the separator in the first line that begins so. Raises OSError."""
    for line in read(path).splitlines():
        key, found, value = line.partition(separator)
        if found and key.strip() == name:
            return value.strip()
    return None


def exists(path: Path) -> bool:
    """Whether something is there that we may see."""
    try:
        return path.exists()
    except OSError:
        return False


def names(folder: Path) -> list[str]:
    """Return the entries of a folder in order; none where it cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
