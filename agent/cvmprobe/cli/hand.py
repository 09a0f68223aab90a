"""What both ends of a measurement by hand are told: where the responder listens, and the key they share."""

from pathlib import Path
from typing import Annotated, Final

import typer

from cvmprobe.errors import UsageError
from cvmprobe.model.endpoint import PeerAddress

__all__ = ["PORT", "KeyFileOption", "KeyOption", "address_of", "read_key"]

PORT: Final = 7411
_SHORTEST, _LONGEST = 16, 64
_LAST_PORT: Final = 0xFFFF  # ports have 16 bits

KeyOption = Annotated[
    str | None,
    typer.Option(metavar="KEY", envvar="CVMPROBE_KEY", help="Shared key, 16 to 64 bytes, the same at both ends."),
]
KeyFileOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File that holds the key, where it should not be seen in ps.")
]


def read_key(key: str | None, file: Path | None) -> bytes | None:
    """Return the key that was given, None where none was. UsageError says what is wrong with it."""
    if file is not None:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--key-file {file}: cannot read a key there: {error}") from None
    if key is None:
        return None
    found = key.encode()
    if not _SHORTEST <= len(found) <= _LONGEST:
        raise UsageError(
            f"the key has {len(found)} bytes: give {_SHORTEST} to {_LONGEST}, or let the responder make one"
        )
    return found


def address_of(text: str) -> PeerAddress:
    """Read ``HOST``, ``HOST:PORT`` or ``[IPV6]:PORT``; without a port it is the responder's usual one."""
    host, port = text, str(PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise UsageError(f"{text!r} is no address: give HOST, HOST:PORT or [IPV6]:PORT")
    return PeerAddress(host, int(port))
