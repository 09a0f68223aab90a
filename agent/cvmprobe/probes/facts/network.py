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
_LIVE = Path("/")
_MOST_DEVICES = 24  # a host may have hundreds: one for each pod
_T = TypeVar("_T")


def network(root: Path) -> Iterator[Fact]:
    """Yield devices, routes and settings; what only this machine's kernel can tell is unknown below another root."""
    for name, path in _FILES:
        yield file_fact(root, name, path)
    links, link_error = _ask(root, netlink.dump_links)
    found, route_error = _ask(root, netlink.dump_routes)
    by_name = {link.name: link for link in links}
    devices = [name for name in names(root / "sys/class/net") if exists(root / "sys/class/net" / name / "mtu")]
    devices.sort(key=lambda name: name in by_name and by_name[name].kind == "veth")
    for device in devices[:_MOST_DEVICES]:
        yield from _interface(root, device, by_name.get(device))
    yield Fact("interfaces", str(len(devices)), f"/sys/class/net; of at most {_MOST_DEVICES} more is told")
    if route_error:
        yield unknown("default_route", route_error)
    yield from routes(found, links)
    yield from cni(links, link_error)


def _ask(root: Path, dump: Callable[[], list[_T]]) -> tuple[list[_T], str]:
    """Return what the kernel answers, and in words why it does not."""
    if root != _LIVE:
        return [], "rtnetlink: not this machine"
    try:
        return dump(), ""
    except OSError as error:
        return [], f"rtnetlink: {error.strerror or error}"


def _interface(root: Path, name: str, link: Link | None) -> Iterator[Fact]:
    folder = f"sys/class/net/{name}"
    yield file_fact(root, f"interface_{name}_mtu", f"{folder}/mtu")
    if link is not None:
        yield Fact(f"interface_{name}_qdisc", link.qdisc or None, "rtnetlink")
        yield Fact(f"interface_{name}_kind", link.kind or ("loopback" if link.loopback else "device"), "rtnetlink")
    if link is None or link.loopback:
        return
    if link.kind:
        yield unknown(f"interface_{name}_speed_mbit", f"a {link.kind} is virtual: what it says has no meaning")
    else:
        yield fact(f"interface_{name}_speed_mbit", f"/{folder}/speed", partial(_speed, root / folder / "speed"))
    yield fact(f"interface_{name}_driver", "ethtool", partial(ethtool.driver, name))
    yield fact(f"interface_{name}_offloads", "ethtool", partial(ethtool.offloads, name))


def _speed(path: Path) -> str | None:
    """Return Mbit/s; -1 stands for unknown."""
    speed = read(path)
    return None if speed == "-1" else speed


def routes(found: Sequence[Route], links: Sequence[Link]) -> Iterator[Fact]:
    """Yield the default route of each family: its device and MTU, never an address."""
    for family, name in ((socket.AF_INET, "default_route"), (socket.AF_INET6, "default_route_v6")):
        best = min((route for route in found if route.family == family), key=lambda route: route.priority, default=None)
        link = None if best is None else next((link for link in links if link.index == best.link_index), None)
        if best is not None and link is not None:
            mtu = f"mtu {best.mtu} (route)" if best.mtu else f"mtu {link.mtu} (device)"
            yield Fact(name, f"{link.name} {mtu}", "rtnetlink")


def cni(links: Sequence[Link], error: str = "") -> Iterator[Fact]:
    """Yield what the names and kinds of devices tell of the CNI; a pod's own namespace seldom tells anything.

    A tunnel device shows that encryption is set up, not that it covers what is measured.
    """
    kinds = {cni for prefix, cni in _CNI_DEVICES for link in links if link.name.startswith(prefix)}
    reason = error or "no device here is named as a CNI names its own"
    yield Fact("cni", " ".join(sorted(kinds)), "names of devices") if kinds else unknown("cni", reason)
    tunnels = [link.name for link in links if link.kind == "wireguard" or link.name.startswith(("cilium_wg", "wg"))]
    if tunnels:
        yield Fact("cni_encryption", f"wireguard device {' '.join(tunnels)}", "kinds and names of devices")
    else:
        yield unknown(
            "cni_encryption", error or "no tunnel device in this network namespace: only the host's may have it"
        )
