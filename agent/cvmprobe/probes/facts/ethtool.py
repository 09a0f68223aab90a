"""A network device's driver and offloads, by the ioctl that ethtool(8) uses; asking needs no right."""

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Iterator

__all__ = ["driver", "offloads"]

_SIOCETHTOOL = 0x8946
_GET_DRIVER = 0x3
_OFFLOADS = {"tx-checksum": 0x16, "rx-checksum": 0x14, "scatter-gather": 0x18, "tso": 0x1E, "gso": 0x23, "gro": 0x2B}
_REQUEST = struct.Struct("16sP16x")  # struct ifreq: name, pointer
_DRIVER_BYTES = 196  # struct ethtool_drvinfo: cmd, then driver[32] and more
_VALUE = struct.Struct("=II")  # struct ethtool_value: cmd, data


def driver(device: str) -> str:
    """Return the name of a device's driver. Raises OSError."""
    with _socket() as asker:
        answer = _ask(asker, device, struct.pack("=I", _GET_DRIVER).ljust(_DRIVER_BYTES, b"\0"))
    return answer[4:36].split(b"\0")[0].decode("ascii", "replace")


def offloads(device: str) -> str:
    """Return the offloads that are on, by name. Raises OSError where none can be asked."""
    with _socket() as asker:
        answers = dict(_answers(asker, device))
    if not answers:
        raise OSError(errno.EOPNOTSUPP, "the device tells none")
    return " ".join(name for name, on in answers.items() if on) or "none"


def _answers(asker: socket.socket, device: str) -> Iterator[tuple[str, bool]]:
    for name, command in _OFFLOADS.items():
        try:
            answer = _ask(asker, device, _VALUE.pack(command, 0))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise
        else:
            yield name, bool(_VALUE.unpack(answer)[1])


def _ask(asker: socket.socket, device: str, question: bytes) -> bytes:
    room = array.array("B", question)
    fcntl.ioctl(asker, _SIOCETHTOOL, _REQUEST.pack(device.encode(), room.buffer_info()[0]))
    return room.tobytes()


def _socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
