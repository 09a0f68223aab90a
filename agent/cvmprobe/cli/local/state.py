"""Where a local run keeps its state: one at a time for each user, and nothing of it stays.

runtime directory            locked while a local run is alive
├── endpoint.json            how other verbs find the collector
└── local/
    ├── scratch              names the directory made on the measured volume
    ├── <child>.toml|.log    settings and stderr of each child
    └── <child>/             state of each child
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cvmprobe.cli.endpoint import Connection, runtime_dir
from cvmprobe.errors import ProbeError, UsageError

__all__ = ["LocalState", "local_state"]


@dataclass(frozen=True, slots=True)
class LocalState:
    """Directories of one local run; all are there, with mode 0700, and empty."""

    state: Path
    scratch: Path  # on the volume to be measured
    endpoint_file: Path


@contextmanager
def local_state(volume: Path) -> Iterator[LocalState]:
    """Take the lock and make the directories; on the way out remove them all.

    What a killed run has left is removed first. ProbeError when a local run is alive.
    """
    runtime, lock = _locked_runtime_dir()
    state, endpoint_file = runtime / "local", runtime / "endpoint.json"
    try:
        _sweep(state, endpoint_file)
        try:
            state.mkdir(mode=0o700)
            scratch = _make_scratch(volume, state / "scratch")
            yield LocalState(state, scratch, endpoint_file)
        finally:
            _sweep(state, endpoint_file)
            with suppress(OSError):  # somebody else's files are in it
                runtime.rmdir()
    finally:
        os.close(lock)


def _locked_runtime_dir() -> tuple[Path, int]:
    """Return the runtime directory and the descriptor that holds its lock."""
    while True:
        path = runtime_dir(create=True)
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another run has just removed it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return path, lock
        except BlockingIOError:
            os.close(lock)
            raise ProbeError(
                f"a local run is alive already{_holder(path)}; end it with Ctrl-C, or use it: cvmprobe get nodes"
            ) from None
        os.close(lock)


def _holder(path: Path) -> str:
    with suppress(OSError, msgspec.DecodeError):
        pid = msgspec.json.decode((path / "endpoint.json").read_bytes(), type=Connection).pid
        return f" (process {pid})"
    return ""


def _make_scratch(volume: Path, record: Path) -> Path:
    """Make our directory on ``volume``; its name is on record before it is there, so that a kill loses nothing."""
    scratch = volume / f".cvmprobe-{secrets.token_hex(4)}"
    record.write_text(str(scratch), encoding="utf-8")
    try:
        scratch.mkdir(mode=0o700)
    except OSError as error:
        raise UsageError(
            f"cannot measure the disk of {volume}: {error.strerror}; name a directory with --volume"
        ) from error
    return scratch


def _sweep(state: Path, endpoint_file: Path) -> None:
    """Remove what a local run has made; what is not there is fine."""
    endpoint_file.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        scratch = Path((state / "scratch").read_text(encoding="utf-8"))
        if scratch.name.startswith(".cvmprobe-"):
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)
