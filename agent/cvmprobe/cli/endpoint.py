"""One collector at a known address: told by flags, or found in the file a local run leaves in the runtime directory.

$XDG_RUNTIME_DIR/cvmprobe, else /tmp/cvmprobe-<uid>     0700, ours
├── endpoint.json    0600: address, server name, CA, token, and the process that keeps it alive
├── lock             held by the local run
└── local/           the state of the local run
"""

import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar

import msgspec

from cvmprobe.errors import UnreachableError, UsageError
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.tls import ClientTls

__all__ = ["Connection", "given_connection", "local_connection", "process_start", "runtime_dir"]


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a collector. ``pid`` is the process that keeps it alive, ``started`` tells it from a later one."""

    address: str
    server_name: str
    ca_pem: str
    token: str
    pid: int = 0
    started: str = ""
    lasting: ClassVar[bool] = False  # when it breaks, what it led to has most likely ended

    def client(self, address: str | None = None, server_name: str | None = None) -> ProbeClient:
        """Return a client of the collector, or of another server its CA vouches for."""
        tls = ClientTls(self.ca_pem.encode(), server_name or self.server_name)
        return ProbeClient(address or self.address, tls, self.token)

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[ProbeClient]:
        """Give a client of an agent's own service; the collector knows its port. UsageError where there is none."""
        async with self.client() as client:
            nodes = await client.list_nodes()
        known = {str(node.endpoint): node for node in nodes} | {node.endpoint.node: node for node in reversed(nodes)}
        if name not in known:
            there = ", ".join(str(node.endpoint) for node in nodes)
            raise UsageError(f"--agent {name!r}: no such node; there are: {there}")
        found = known[name]
        if not found.probe_service_port:
            raise UsageError(
                f"--agent {name!r}: {found.endpoint} serves nobody itself; watch it at the collector: --node {name}"
            )
        async with self.client(f"127.0.0.1:{found.probe_service_port}", found.endpoint.server_name) as client:
            yield client

    def write(self, path: Path) -> None:
        """Write the file the other verbs find us by: whole or not at all, for our eyes only."""
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(self))
        draft.replace(path)


def given_connection(address: str, ca_file: Path | None, token_file: Path | None) -> Connection:
    """Return the collector at ``address`` (host:port), as flags tell it. Raises UsageError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--collector {address!r} is not HOST:PORT, as in 127.0.0.1:7443")
    if ca_file is None or token_file is None:
        raise UsageError(f"--collector {address} also needs --ca-file and --token-file")
    ca_pem = _read(ca_file)
    if "-----BEGIN CERTIFICATE-----" not in ca_pem:
        raise UsageError(f"--ca-file {ca_file} holds no certificate; give the PEM file of the collector's CA")
    return Connection(address=address, server_name=host.strip("[]"), ca_pem=ca_pem, token=_read(token_file).strip())


def local_connection() -> Connection:
    """Return the collector of the living local run. Raises UnreachableError where there is none."""
    if sys.platform == "win32":
        raise UnreachableError("a local run needs Linux")
    path = runtime_dir(create=False) / "endpoint.json"
    try:
        connection = msgspec.json.decode(path.read_bytes(), type=Connection)
    except FileNotFoundError:
        raise UnreachableError("no local run is alive") from None
    except msgspec.DecodeError as error:
        raise UnreachableError(f"{path} cannot be read ({error}); remove it") from error
    if connection.pid <= 0 or process_start(connection.pid) != connection.started:
        raise UnreachableError(f"the local run (process {connection.pid}) has ended")
    return connection


def runtime_dir(*, create: bool) -> Path:
    """Return the user's runtime directory; UsageError when somebody else could have put it there."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "cvmprobe" if base and _is_ours(Path(base)) else Path(f"/tmp/cvmprobe-{os.getuid()}")  # noqa: S108 - owner and mode are checked
    if create:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise UsageError(
                f"{path} cannot be made: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours"
            ) from error
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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}: it is not text") from error
