"""Two network namespaces and a third between them that routes: known truths are made in its links.

    a ── veth ── middle ── veth ── b
      link_a          link_b

Everything here is a context manager or is gone with its network. Needs root, ip, tc and nft.
"""

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Drop", "Network", "Side", "addresses_gone", "bucket", "dropping", "link_down", "mtu_of_links", "network"]

_NUMBERS = itertools.count()


def run(*words: str) -> str:
    """Run a command and return what it prints; a failure says the command and its last words."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


@dataclass(frozen=True)
class Side:
    """One end: its namespace, its device towards the middle, and the middle's device towards it."""

    namespace: str
    device: str
    middle_device: str
    ipv4: str
    ipv6: str

    def host(self, family: int) -> str:
        return {4: self.ipv4, 6: self.ipv6}[family]


@dataclass(frozen=True)
class Network:
    a: Side
    b: Side
    middle: str

    def other(self, side: Side) -> Side:
        return self.b if side is self.a else self.a


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Three namespaces of our own, joined and routed for IPv4 and IPv6; gone afterwards, whatever happened."""
    stem = f"cvmprobe-{os.getpid()}-{next(_NUMBERS)}"
    made = Network(
        Side(f"{stem}-a", "to_middle", "link_a", "10.77.1.1", "fd77:1::1"),
        Side(f"{stem}-b", "to_middle", "link_b", "10.77.2.1", "fd77:2::1"),
        f"{stem}-middle",
    )
    with contextlib.ExitStack() as cleanup:
        for name in (made.a.namespace, made.b.namespace, made.middle):
            run("ip", "netns", "add", name)
            cleanup.callback(run, "ip", "netns", "del", name)
            inside(name, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")  # nor for link-local ones
            run("ip", "-n", name, "link", "set", "lo", "up")
        for side in (made.a, made.b):
            _join(side, made.middle)
        inside(made.middle, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        inside(made.middle, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        yield made


def inside(namespace: str, *words: str) -> str:
    """Run a command in a namespace."""
    return run("ip", "netns", "exec", namespace, *words)


def _join(side: Side, middle: str) -> None:
    name = side.namespace
    run(
        *("ip", "-n", middle, "link", "add", side.middle_device, "type", "veth"),
        *("peer", "name", side.device, "netns", name),
    )
    for namespace, device, last in ((name, side.device, 1), (middle, side.middle_device, 2)):
        for address in (f"{side.ipv4[:-1]}{last}/24", f"{side.ipv6[:-1]}{last}/64"):
            nodad = ["nodad"] if ":" in address else []
            run("ip", "-n", namespace, "address", "add", address, "dev", device, *nodad)
        run("ip", "-n", namespace, "link", "set", device, "up")
    add_routes(side)


def add_routes(side: Side) -> None:
    for family, gateway in (("-4", f"{side.ipv4[:-1]}2"), ("-6", f"{side.ipv6[:-1]}2")):
        run("ip", "-n", side.namespace, family, "route", "replace", "default", "via", gateway)


@contextlib.contextmanager
def bucket(net: Network, towards: Side, rate_bit: int, *, burst_bytes: int = 1 << 16, latency_ms: int = 50):
    """A token bucket in the middle for what goes to one side; yields a function that returns what it dropped.

    ``rate_bit``: bits a second, Ethernet headers included, so payload is 1448/1514 of it in full TCP segments.
    """
    device = towards.middle_device
    shape = ("rate", f"{rate_bit}bit", "burst", str(burst_bytes), "latency", f"{latency_ms}ms")
    run("tc", "-n", net.middle, "qdisc", "replace", "dev", device, "root", "tbf", *shape)

    def dropped_packets() -> int:
        return json.loads(run("tc", "-n", net.middle, "-s", "-j", "qdisc", "show", "dev", device, "root"))[0]["drops"]

    try:
        yield dropped_packets
    finally:
        run("tc", "-n", net.middle, "qdisc", "del", "dev", device, "root")


class Drop:
    """What the middle dropped: the oracle of a loss."""

    def __init__(self, middle: str) -> None:
        self._middle = middle

    def counted(self) -> tuple[int, int]:
        """Packets and bytes, IP headers included; a packet of segmentation offload holds many datagrams."""
        listed = json.loads(inside(self._middle, "nft", "-j", "list", "counters", "table", "inet", "cvmprobe"))
        found = next(entry["counter"] for entry in listed["nftables"] if "counter" in entry)
        return found["packets"], found["bytes"]


@contextlib.contextmanager
def dropping(net: Network, towards: Side, per_mille: int, match: str) -> Iterator[Drop]:
    """Drop at random in the middle what goes to one side and matches, such as ``udp length > 100``.

    ``match`` is words of nft; it must leave out what is no data, such as hellos, for the counter to be the truth.
    """
    chance = f"numgen random mod 1000 < {per_mille}" if per_mille < 1000 else ""
    rules = f"""
    table inet cvmprobe {{
        counter dropped {{ }}
        chain forward {{
            type filter hook forward priority 0;
            oifname "{towards.middle_device}" {match} {chance} counter name dropped drop
        }}
    }}"""
    inside(net.middle, "nft", rules)
    try:
        yield Drop(net.middle)
    finally:
        inside(net.middle, "nft", "delete", "table", "inet", "cvmprobe")


@contextlib.contextmanager
def mtu_of_links(net: Network, towards: Side, mtu: int) -> Iterator[None]:
    """A smaller MTU behind the middle: who sends to that side learns of it by ICMP only."""
    for namespace, device in ((net.middle, towards.middle_device), (towards.namespace, towards.device)):
        run("ip", "-n", namespace, "link", "set", device, "mtu", str(mtu))
    try:
        yield
    finally:
        for namespace, device in ((net.middle, towards.middle_device), (towards.namespace, towards.device)):
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1500")


@contextlib.contextmanager
def link_down(side: Side) -> Iterator[None]:
    """The side's own device down, as if the cable were pulled there."""
    run("ip", "-n", side.namespace, "link", "set", side.device, "down")
    try:
        yield
    finally:
        run("ip", "-n", side.namespace, "link", "set", side.device, "up")
        add_addresses(side)
        add_routes(side)


@contextlib.contextmanager
def addresses_gone(side: Side) -> Iterator[None]:
    """The side's device without an address; the link stays up."""
    run("ip", "-n", side.namespace, "address", "flush", "dev", side.device, "scope", "global")
    try:
        yield
    finally:
        add_addresses(side)
        add_routes(side)


def add_addresses(side: Side) -> None:
    """Give a side its addresses; those it has stay."""
    for address in (f"{side.ipv4}/24", f"{side.ipv6}/64"):
        nodad = ["nodad"] if ":" in address else []
        run("ip", "-n", side.namespace, "address", "replace", address, "dev", side.device, *nodad)
