"""Where the collector is: found in the file a local run leaves in the runtime directory, or told by flags.

$XDG_RUNTIME_DIR/cvmprobe, else /tmp/cvmprobe-<uid>     0700, ours
├── endpoint.json    0600: address, server name, CA, token, and the process that keeps it alive
├── lock             held by the local run
└── local/           the state of the local run
"""

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from cvmprobe.errors import UnreachableError, UsageError
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.tls import ClientTls

__all__ = [
    "CaFileOption",
    "CollectorOption",
    "Connection",
    "TokenFileOption",
    "ask",
    "find",
    "process_start",
    "runtime_dir",
]

_T = TypeVar("_T")
_START_HERE = "start one with 'cvmprobe run quick --local --keep', or give --collector, --ca-file and --token-file"

CollectorOption = Annotated[
    str | None, typer.Option("--collector", metavar="HOST:PORT", help="Collector to ask; default: the local run's.")
]
CaFileOption = Annotated[
    Path | None, typer.Option("--ca-file", help="PEM file of the CA its certificate must chain to.")
]
TokenFileOption = Annotated[Path | None, typer.Option("--token-file", help="File with the token to show.")]


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a collector. ``pid`` is the process that keeps it alive, ``started`` tells it from a later one."""

    address: str
    server_name: str
    ca_pem: str
    token: str
    pid: int = 0
    started: str = ""

    def client(self, address: str | None = None, server_name: str | None = None) -> ProbeClient:
        """Return a client of the collector, or of another server its CA vouches for."""
        tls = ClientTls(self.ca_pem.encode(), server_name or self.server_name)
        return ProbeClient(address or self.address, tls, self.token)

    def write(self, path: Path) -> None:
        """Write the file the other verbs find us by: whole or not at all, for our eyes only."""
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self))
        draft.replace(path)


def find(collector: str | None, ca_file: Path | None, token_file: Path | None) -> Connection:
    """Return the collector named by flags, else the one of the local run. Raises UsageError or UnreachableError."""
    if collector is None:
        if ca_file or token_file:
            raise UsageError("--ca-file and --token-file belong to --collector, which is missing")
        return _local(runtime_dir(create=False) / "endpoint.json")
    host, _, port = collector.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--collector {collector!r} is not HOST:PORT, as in 127.0.0.1:7443")
    if ca_file is None or token_file is None:
        raise UsageError(f"--collector {collector} also needs --ca-file and --token-file")
    return Connection(
        address=collector, server_name=host.strip("[]"), ca_pem=_read(ca_file), token=_read(token_file).strip()
    )


def ask(connection: Connection, question: Callable[[ProbeClient], Awaitable[_T]]) -> _T:
    """Put one question to a collector and return the answer."""

    async def put() -> _T:
        async with connection.client() as client:
            return await question(client)

    return asyncio.run(put())


def runtime_dir(*, create: bool) -> Path:
    """Return the user's runtime directory; UsageError when somebody else could have put it there."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "cvmprobe" if base and _is_ours(Path(base)) else Path(f"/tmp/cvmprobe-{os.getuid()}")  # noqa: S108 - owner and mode are checked
    if create:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
    with suppress(FileNotFoundError):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise UsageError(f"{path} is not a directory of yours with mode 0700; remove it, or set XDG_RUNTIME_DIR")
    return path


def process_start(pid: int) -> str | None:
    """Return what tells a process from a later one with the same number; None when there is none.

    Where the system does not say when a process started, its number alone must do.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        return ""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = text.rpartition(")")[2].split()
        return None if state == "Z" else fields[18]  # starttime, in clock ticks since boot
    return ""


def _is_ours(directory: Path) -> bool:
    """Whether a directory is there and ours; su and sudo hand on the XDG_RUNTIME_DIR of somebody else."""
    try:
        return directory.stat().st_uid == os.getuid()
    except OSError:
        return False


def _local(path: Path) -> Connection:
    try:
        connection = msgspec.json.decode(path.read_bytes(), type=Connection)
    except FileNotFoundError:
        raise UnreachableError(f"no collector is running here; {_START_HERE}") from None
    except msgspec.DecodeError as error:
        raise UnreachableError(f"{path} cannot be read ({error}); remove it") from error
    if connection.pid <= 0 or process_start(connection.pid) != connection.started:
        raise UnreachableError(f"the local run (process {connection.pid}) has ended; {_START_HERE}")
    return connection


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}: it is not text") from error
