"""The kernel's log, where it may be read: records ``priority,sequence,time,flags;text``."""

import os
from pathlib import Path

__all__ = ["kernel_log"]

_RECORD_BYTES = 8192  # the kernel's own limit
_MOST_RECORDS = 20_000


def kernel_log(root: Path) -> list[str] | None:
    """Return the texts since boot, as far as they are kept; None where the log may not be read."""
    try:
        log = os.open(root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _texts(log)
    finally:
        os.close(log)


def _texts(log: int) -> list[str] | None:
    texts: list[str] = []
    for _ in range(_MOST_RECORDS):
        try:
            record = os.read(log, _RECORD_BYTES)
        except BrokenPipeError:  # overwritten under our hands: the next call goes on behind the hole
            continue
        except BlockingIOError:
            break
        except PermissionError:
            return None
        if not record:
            break
        texts += [line.partition(";")[2] for line in record.decode("utf-8", "replace").splitlines() if ";" in line]
    return texts
