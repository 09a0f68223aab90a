"""The network as this process sees it: devices, default routes, congestion control, and traces of the CNI."""

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from cvmprobe.model.environment import Fact
from cvmprobe.probes.facts import ethtool, netlink
from cvmprobe.probes.facts.netlink import Link, Route
from cvmprobe.probes.facts.reading import exists, fact, file_fact, names, read, unknown

__all__ = ["cni", "network", "routes"]

_FILES = (
    ("tcp_congestion_control", "proc/sys/net/ipv4/tcp_congestion_control"),
    ("tcp_available_congestion_control", "proc/sys/net/ipv4/tcp_available_congestion_control"),
    ("tcp_allowed_congestion_control", "proc/sys/net/ipv4/tcp_allowed_congestion_control"),
    ("default_qdisc", "proc/sys/net/core/default_qdisc"),
    ("tcp_rmem", "proc/sys/net/ipv4/tcp_rmem"),
    ("tcp_wmem", "proc/sys/net/ipv4/tcp_wmem"),
    ("socket_rmem_max", "proc/sys/net/core/rmem_max"),
    ("socket_wmem_max", "proc/sys/net/core/wmem_max"),
)
_CNI_DEVICES = (
    ("cilium_", "cilium"),
    ("lxc", "cilium"),
    ("cali", "calico"),
    ("vxlan.calico", "calico"),
    ("flannel", "flannel"),
    ("antrea-gw", "antrea"),
    ("ovn-k8s-", "ovn-kubernetes"),
    ("weave", "weave"),
)
_NO_CNI_DEVICES = ("lxcbr",)  # the bridge of LXC
_DEFAULT_ROUTES = {socket.AF_INET: "default_route", socket.AF_INET6: "default_route_v6"}
_LIVE = Path("/")
_MOST_DEVICES = 24  # a host may have hundreds: one for each pod
_REAL_SPEED = ("", "bond", "team", "vlan")  # kinds whose speed is that of what carries them
_MANY_BELOW = ("bridge", "openvswitch", "vrf")  # of which each pod's device may be one
_T = TypeVar("_T")


def network(root: Path) -> Iterator[Fact]:
    """Yield devices, routes and settings; what only this machine's kernel can tell is unknown below another root."""
    for name, path in _FILES:
        yield file_fact(root, name, path)
    links, link_error = _ask(root, netlink.dump_links)
    found, route_error = _ask(root, netlink.dump_routes)
    yield from _interfaces(root, links, link_error)
    if route_error:
        yield from (unknown(name, route_error) for name in _DEFAULT_ROUTES.values())
    else:
        told = list(routes(found, links))
        yield from told
        missing = set(_DEFAULT_ROUTES.values()) - {fact.name for fact in told}
        yield from (Fact(name, "none", "rtnetlink: the main table") for name in sorted(missing))
    yield from cni(links, link_error)


def _ask(root: Path, dump: Callable[[], list[_T]]) -> tuple[list[_T], str]:
    """Return what the kernel answers, and in words why it does not."""
    if root != _LIVE:
        return [], "rtnetlink: not this machine"
    try:
        return dump(), ""
    except OSError as error:
        return [], f"rtnetlink: {error.strerror or error}"


def _interfaces(root: Path, links: Sequence[Link], link_error: str) -> Iterator[Fact]:
    """Yield the devices; pods' ends of a veth pair come last. A /sys may be of another network namespace than ours."""
    folder = "sys/class/net"
    for link in sorted(links, key=lambda link: (link.kind == "veth", link.name))[:_MOST_DEVICES]:
        yield from _by_kernel(root, link, links)
    listed = [] if links else [name for name in names(root / folder) if exists(root / folder / name / "mtu")]
    for name in listed[:_MOST_DEVICES]:
        yield file_fact(root, f"interface_{name}_mtu", f"{folder}/{name}/mtu")
    source = "rtnetlink" if links else f"/{folder}"
    if links or listed:
        yield Fact("interfaces", str(len(links or listed)), f"{source}; of at most {_MOST_DEVICES} more is told")
    else:
        yield unknown("interfaces", f"{link_error}; /{folder}: lists none")


def _by_kernel(root: Path, link: Link, links: Sequence[Link]) -> Iterator[Fact]:
    name = f"interface_{link.name}"
    yield Fact(f"{name}_mtu", str(link.mtu), "rtnetlink")
    yield Fact(f"{name}_state", "up" if link.up else "down", "rtnetlink: IFF_UP")
    yield Fact(f"{name}_qdisc", link.qdisc or None, "rtnetlink")
    yield Fact(f"{name}_kind", link.kind or ("loopback" if link.loopback else "device"), "rtnetlink")
    if link.loopback:
        return
    below = _carriers(link, links)
    if below:
        yield Fact(f"{name}_carried_by", " ".join(below), "rtnetlink: IFLA_MASTER, IFLA_LINK")
    if link.kind in _REAL_SPEED:
        path = f"sys/class/net/{link.name}/speed"
        yield fact(f"{name}_speed_mbit", f"/{path}", partial(_speed, root / path))
    else:
        yield unknown(f"{name}_speed_mbit", f"a {link.kind} is virtual: what it says has no meaning")
    yield fact(f"{name}_driver", "ethtool", lambda: ethtool.driver(link.name) or None)
    yield fact(f"{name}_offloads", "ethtool", partial(ethtool.offloads, link.name))


def _carriers(link: Link, links: Sequence[Link]) -> list[str]:
    """Return the devices that move a bond's, a VLAN's or a synthetic NIC's packets."""
    if link.kind in _MANY_BELOW or link.kind == "veth":  # a veth names its other end, in whatever namespace
        return []
    return sorted(other.name for other in links if other.master == link.index or other.index == link.below)


def _speed(path: Path) -> str | None:
    """Return Mbit/s; -1 stands for unknown."""
    speed = read(path)
    return None if speed == "-1" else speed


def routes(found: Sequence[Route], links: Sequence[Link]) -> Iterator[Fact]:
    """Yield the default route of each family: its device, or devices, and MTU; never an address."""
    names = {link.index: link for link in links}
    for family, name in _DEFAULT_ROUTES.items():
        ours = [route for route in found if route.family == family and route.link_index in names]
        best = min((route.priority for route in ours), default=0)
        hops = [_hop(route, names[route.link_index]) for route in ours if route.priority == best]
        if hops:
            yield Fact(name, " and ".join(dict.fromkeys(hops)), "rtnetlink")


def _hop(route: Route, link: Link) -> str:
    return f"{link.name} mtu {route.mtu} (route)" if route.mtu else f"{link.name} mtu {link.mtu} (device)"


def cni(links: Sequence[Link], error: str = "") -> Iterator[Fact]:
    """Yield what the names and kinds of devices tell of the CNI; a pod's own namespace seldom tells anything.

    A tunnel device shows that encryption is set up, not that it covers what is measured.
    """
    devices = [link.name for link in links if not link.name.startswith(_NO_CNI_DEVICES)]
    kinds = {cni for prefix, cni in _CNI_DEVICES for name in devices if name.startswith(prefix)}
    reason = error or "no device here is named as a CNI names its own"
    yield Fact("cni", " ".join(sorted(kinds)), "names of devices") if kinds else unknown("cni", reason)
    tunnels = [link.name for link in links if link.kind == "wireguard" or link.name.startswith(("cilium_wg", "wg"))]
    if tunnels:
        yield Fact("cni_encryption", f"wireguard device {' '.join(tunnels)}", "kinds and names of devices")
    else:
        yield unknown(
            "cni_encryption", error or "no tunnel device in this network namespace: only the host's may have it"
        )
