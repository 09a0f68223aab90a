"""The kernel's own answer about links and routes (rtnetlink); needs no right, also in a pod.

A dump is a row of messages {u32 length, u16 type, u16 flags, u32 sequence, u32 port}, each with a fixed header and
attributes {u16 length, u16 type, value padded to 4}. No address is taken.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Link", "Route", "dump_links", "dump_routes", "parse_links", "parse_routes"]

_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWROUTE, _RTM_GETROUTE = 16, 18, 24, 26
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_NAME, _MTU, _BELOW, _QDISC, _MASTER, _LINKINFO, _KIND = 3, 4, 5, 6, 10, 18, 1  # IFLA_*, IFLA_INFO_KIND
_OUT_INDEX, _PRIORITY, _METRICS, _METRIC_MTU, _MULTIPATH = 4, 6, 8, 2, 9  # RTA_*, RTAX_MTU
_HOP = struct.Struct("=HBBI")  # struct rtnexthop: length, flags, hops, index
_MAIN_TABLE, _UNICAST = 254, 1
_LOOPBACK_TYPE = 772
_IFF_UP = 1
_TYPE_MASK = 0x3FFF  # the upper two bits tell how it is nested
_ROOM = 1 << 16
_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. ``kind`` names a virtual one: veth, vxlan, wireguard; empty where it is none.

    ``master`` and ``below`` are the indexes of the device it carries (a bond, a bridge, the synthetic NIC of a virtual
    function) and of the one that carries it (a VLAN's), 0 where there is none.
    """

    index: int
    name: str
    mtu: int
    qdisc: str
    kind: str
    loopback: bool
    up: bool = False
    master: int = 0
    below: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """A default route, or one hop of it. ``mtu`` is None where the route sets none: the link's holds."""

    family: int
    link_index: int
    mtu: int | None
    priority: int


def dump_links() -> list[Link]:
    """Return the devices of our network namespace. Raises OSError."""
    return list(parse_links(_dump(_RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))))


def dump_routes() -> list[Route]:
    """Return the default routes of the main table, of both families. Raises OSError."""
    return list(parse_routes(_dump(_RTM_GETROUTE, _ROUTE.pack(socket.AF_UNSPEC, *[0] * 8))))


def parse_links(dump: bytes) -> Iterator[Link]:
    """Read the answer to RTM_GETLINK."""
    for kind, body in _messages(dump):
        if kind != _RTM_NEWLINK:
            continue
        _, device_type, index, flags, _ = _LINK.unpack_from(body)
        values = _attributes(body[_LINK.size :])
        info = _attributes(values.get(_LINKINFO, b""))
        yield Link(
            index=index,
            name=_text(values.get(_NAME)),
            mtu=_number(values.get(_MTU)) or 0,
            qdisc=_text(values.get(_QDISC)),
            kind=_text(info.get(_KIND)),
            loopback=device_type == _LOOPBACK_TYPE,
            up=bool(flags & _IFF_UP),
            master=_number(values.get(_MASTER)) or 0,
            below=_number(values.get(_BELOW)) or 0,
        )


def parse_routes(dump: bytes) -> Iterator[Route]:
    """Read the answer to RTM_GETROUTE."""
    for kind, body in _messages(dump):
        if kind != _RTM_NEWROUTE:
            continue
        family, destination_bits, _, _, table, _, _, route_type, _ = _ROUTE.unpack_from(body)
        values = _attributes(body[_ROUTE.size :])
        if destination_bits or table != _MAIN_TABLE or route_type != _UNICAST:
            continue
        metrics = _attributes(values.get(_METRICS, b""))
        for index in _out_indexes(values):
            yield Route(family, index, _number(metrics.get(_METRIC_MTU)), _number(values.get(_PRIORITY)) or 0)


def _out_indexes(route: dict[int, bytes]) -> Iterator[int]:
    """Yield the device of a route, or that of each hop of a multipath one."""
    index = _number(route.get(_OUT_INDEX))
    if index is not None:
        yield index
    hops, at = route.get(_MULTIPATH, b""), 0
    while at + _HOP.size <= len(hops):
        length, _, _, index = _HOP.unpack_from(hops, at)
        yield int(index)
        at += max(length, _HOP.size) + 3 & ~3


def _dump(kind: int, body: bytes) -> bytes:
    request = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, 1, 0) + body
    answer = b""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as line:
        line.settimeout(_PATIENCE_S)
        line.sendto(request, (0, 0))
        while True:
            part = line.recv(_ROOM)
            answer += part
            if any(kind in (_ERROR, _DONE) for kind, _ in _messages(part)):
                return answer


def _messages(dump: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(dump):
        length, kind, _, _, _ = _HEADER.unpack_from(dump, at)
        if length < _HEADER.size or at + length > len(dump):
            return
        yield kind, dump[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _attributes(packed: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(packed):
        length, kind = _ATTRIBUTE.unpack_from(packed, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = packed[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def _text(value: bytes | None) -> str:
    return "" if value is None else value.rstrip(b"\0").decode("utf-8", "replace")


def _number(value: bytes | None) -> int | None:
    return None if value is None or len(value) < _U32.size else int(_U32.unpack_from(value)[0])
