"""Writing an exported snapshot to a file: whole or not at all, and never over another one."""

import datetime as dt
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from cvmprobe.errors import StoreError, UsageError

__all__ = ["export", "fresh_path"]


def fresh_path(output: Path | None, suffix: str = "snapshot.zip") -> Path:
    """Return where to write: ``output``, or a name with date and time in this directory.

    Raises UsageError when there is a file already, or none can be made.
    """
    path = output or Path(f"cvmprobe-{dt.datetime.now().astimezone():%Y%m%d-%H%M%S}.{suffix}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: {path.parent} is not a directory")
    try:
        path.open("xb").close()  # asking for rights would not tell the whole truth
        path.unlink()
    except FileExistsError:
        raise UsageError(f"{path} is there already; name another file with --output") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name a file elsewhere with --output") from error
    return path


async def export(chunks: AsyncIterator[bytes], path: Path) -> None:
    """Write all chunks to ``path``; when that fails, or is interrupted, nothing is left there.

    Raises StoreError where the disk does not take them.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("xb") as file:
            async for chunk in chunks:
                file.write(chunk)
        draft.replace(path)
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror}; make room, or name a file elsewhere with --output"
        raise StoreError(reason) from error
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
