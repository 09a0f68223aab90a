"""cvmprobe responder: the end that is measured against, until Ctrl-C."""

import errno
import secrets
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cvmprobe.cli.hand import PORT, KeyFileOption, KeyOption, address_of, read_key
from cvmprobe.cli.interrupt import interrupts
from cvmprobe.cli.output import note
from cvmprobe.errors import EngineError, RefusedError, UsageError

if TYPE_CHECKING:  # native; a machine without the engines has the other verbs
    from cvmprobe.probes.responder import Responder

__all__ = ["HELP", "responder"]

HELP: Final = f"""
Be measured against by 'cvmprobe probe' from another machine, until Ctrl-C.

It serves whoever holds the key, many at once, and answers nobody else. Without a key it makes one and prints it.

    cvmprobe responder

    cvmprobe responder --listen 10.0.0.7:{PORT} --key-file key.txt
"""

_ANY: Final = "[::]"
_ANY_IPV4: Final = "0.0.0.0"  # noqa: S104 - the key guards it, and the person asked for a responder
_MAX_BYTES: Final = 10**12
_RENEW_S: Final = 3_600
_VALID_MS: Final = 2 * _RENEW_S * 1_000
_TICK_S: Final = 1.0
_TOLD: Final = ("sessions", "completed", "cut", "refused", "unknown", "forged", "replayed", "malformed")


def responder(
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help=f"Numeric address to listen on; default: any, port {PORT}.")
    ] = None,
    key: KeyOption = None,
    key_file: KeyFileOption = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Payload that each session may move.")] = _MAX_BYTES,
) -> None:
    """Serve until a signal comes."""
    known = read_key(key, key_file)
    made = known or secrets.token_urlsafe(18).encode()
    serving, host = _listen(listen)
    try:
        note(
            f"listening on {host} port {serving.port}; {max_bytes:,} bytes for each session at the most; Ctrl-C ends it"
        )
        if known is None:
            note(
                f"key made for this run; on the other machine, with this machine's name instead of HOST:\n"
                f"  cvmprobe probe tcp-rr HOST:{serving.port} --key {made.decode()}"
            )
        code = _serve(serving, made, max_bytes)
    finally:
        serving.close()
    raise typer.Exit(code)


def _listen(listen: str | None) -> "tuple[Responder, str]":
    from cvmprobe.probes.responder import Responder

    wanted = address_of(listen or f"{_ANY}:{PORT}")
    try:
        return Responder(wanted.host, wanted.port), wanted.host
    except EngineError as error:
        if listen is None and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # no IPv6 here
            return Responder(_ANY_IPV4, wanted.port), _ANY_IPV4
        if error.call == "getaddrinfo":
            raise UsageError(f"--listen {listen}: give a numeric address of this machine") from None
        raise RefusedError(f"{error}; give another address or port with --listen") from error


def _serve(serving: "Responder", key: bytes, max_bytes: int) -> int:
    """Admit, and tell what happened, until a signal comes; return the exit code. Ctrl-C is how one ends it: 0."""
    signals: SimpleQueue[int] = SimpleQueue()
    told = serving.counters()
    ticks = 0
    with interrupts(signals.put):
        while True:
            if ticks % _RENEW_S == 0:
                serving.admit_any(key, valid_for_ms=_VALID_MS, max_bytes=max_bytes)
            try:
                signals.get(timeout=_TICK_S)
            except Empty:
                ticks += 1
                told = _tell(told, serving.counters())
            else:
                return 0


def _tell(before: Mapping[str, int], now: Mapping[str, int]) -> Mapping[str, int]:
    """Print what changed, if something did."""
    if any(now[name] != before[name] for name in _TOLD):
        counts = ", ".join(f"{name} {now[name]}" for name in _TOLD if now[name])
        note(f"{counts}; open now {now['active']}")
    return now
