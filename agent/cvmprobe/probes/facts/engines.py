"""Which ways into the kernel the engines have here, tried out; and of those refused, by which errno."""

import errno
import socket
from collections.abc import Iterator

from cvmprobe.model.environment import Fact
from cvmprobe.native import kernel

__all__ = ["AVAILABLE", "engines"]

AVAILABLE = "available"
_UDP_SEGMENT, _UDP_GRO = 103, 104  # linux/udp.h


def engines() -> Iterator[Fact]:
    """Yield one fact for each interface an engine would rather use, and what it falls back to."""
    yield Fact("engine_io_uring", _answer(kernel.try_io_uring()), "tried: io_uring_setup, _register, _enter")
    yield Fact("engine_libaio", _answer(kernel.try_libaio()), "tried: io_setup")
    for name, option in (("engine_udp_gso", _UDP_SEGMENT), ("engine_udp_gro", _UDP_GRO)):
        yield Fact(name, _answer(_try_option(option)), "tried: setsockopt on a UDP socket")


def _answer(refused: tuple[str, int] | None) -> str:
    if refused is None:
        return AVAILABLE
    call, number = refused
    return f"refused: {call}: {errno.errorcode.get(number, '?')} (errno {number})"


def _try_option(option: int) -> tuple[str, int] | None:
    call = "socket"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            call = "setsockopt"
            probe.setsockopt(socket.IPPROTO_UDP, option, 1)
    except OSError as error:
        return call, error.errno or 0
    return None
