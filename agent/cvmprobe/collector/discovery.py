"""Who the peers are and where they are reached: a protocol, and the static answer from the settings."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cvmprobe.model.delivery import Hello
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, PeerAddress, Role

__all__ = ["Discovery", "Peer", "StaticDiscovery", "path_between", "target_of"]


@dataclass(frozen=True, slots=True)
class Peer:
    """An attached endpoint that may be given probes. Peers of one ``machine`` (boot id) share its CPUs and disks."""

    endpoint: Endpoint
    machine: str
    start_id: str
    address: PeerAddress

    @property
    def is_on_loopback(self) -> bool:
        """Whether it is reached without leaving the machine."""
        try:
            return ipaddress.ip_address(self.address.host).is_loopback
        except ValueError:  # a name
            return self.address.host == "localhost"


class Discovery(Protocol):
    """Where attached agents are reached."""

    def peer(self, hello: Hello) -> Peer | None:
        """Return the peer that introduced itself so; None where it may not be given probes."""


class StaticDiscovery:
    """Agents that attach are the peers; their hosts stand in the settings, their ports in their Hello."""

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self._hosts = dict(hosts)

    def peer(self, hello: Hello) -> Peer | None:
        """Return the peer; None where the settings name no host for its node, or it has no responder."""
        host = self._hosts.get(hello.endpoint.node)
        if host is None or hello.responder_port == 0:
            return None
        return Peer(hello.endpoint, hello.boot_id, hello.start_id, PeerAddress(host, hello.responder_port))


def path_between(source: Peer, target: Peer) -> Path | None:
    """Return how two peers are joined; None where that way is not measured."""
    roles = (source.endpoint.role, target.endpoint.role)
    if source.endpoint == target.endpoint:
        return None
    if source.endpoint.node == target.endpoint.node:
        return Path.INTRA_NODE if set(roles) == {Role.POD, Role.PEER} else None
    if roles == (Role.HOST, Role.HOST):
        return Path.HOST
    if roles != (Role.POD, Role.POD):
        return None
    return Path.LOOPBACK if target.is_on_loopback else Path.INTER_NODE


def target_of(source: Peer, target: Peer) -> EndpointTarget | None:
    """Return ``target`` as ``source`` aims at it; None where that way is not measured."""
    path = path_between(source, target)
    return None if path is None else EndpointTarget(target.endpoint, path)
