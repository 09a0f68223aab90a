"""Whether an action gives back what it takes: file descriptors, threads, memory."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def memory_is_kept_back() -> bool:
    """Whether AddressSanitizer is here: it keeps freed memory aside, so that a later use of it is seen."""
    return "libasan" in Path("/proc/self/maps").read_text()


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def descriptors() -> set[str]:
    """Open file descriptors and what they are; the one that lists them is gone by the time it is looked at."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


def assert_no_leak(action: Callable[[], object], *, repeats: int = 60, allowed_bytes: int = 4 * 1024 * 1024) -> None:
    """Repeat an action that should touch far more than ``allowed_bytes / repeats`` and see that nothing stays."""
    for _ in range(5):  # caches fill once
        action()
    grown = _growth(action, repeats)
    if grown > allowed_bytes:  # an allocator may have taken a new arena; a leak goes on
        grown = _growth(action, repeats)
    assert grown <= allowed_bytes or memory_is_kept_back(), f"{grown} bytes stayed after {repeats} repeats"


def _growth(action: Callable[[], object], repeats: int) -> int:
    """Bytes that the repeats left resident; descriptors and threads must all be gone."""
    gc.collect()
    before = descriptors(), threads(), resident_bytes()
    for _ in range(repeats):
        action()
    gc.collect()
    assert descriptors() == before[0]
    assert threads() == before[1]
    return resident_bytes() - before[2]
