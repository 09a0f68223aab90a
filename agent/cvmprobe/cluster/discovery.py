"""Which of our pods run where, and what their nodes are: a mirror of our own namespace's pods and of all nodes."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import msgspec

from cvmprobe.cluster.api import ApiServer
from cvmprobe.cluster.mirror import Metadata, Mirror
from cvmprobe.cluster.names import COMPONENT, OURS
from cvmprobe.model.endpoint import Endpoint, Role

__all__ = ["ClusterView", "NodeFacts", "PodFacts"]

_ROLES: Final[Mapping[str, Role]] = {"agent": Role.POD, "peer": Role.PEER, "host": Role.HOST}


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str | None = None
    service_account_name: str = "default"


class _PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    pod_ip: str | None = msgspec.field(name="podIP", default=None)


class _Pod(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: _PodSpec
    status: _PodStatus = _PodStatus()


class _NodeSpec(msgspec.Struct, frozen=True):
    provider_id: str | None = msgspec.field(name="providerID", default=None)


class _NodeInfo(msgspec.Struct, frozen=True, rename="camel"):
    container_runtime_version: str | None = None
    os_image: str | None = None


class _NodeStatus(msgspec.Struct, frozen=True, rename="camel"):
    node_info: _NodeInfo = _NodeInfo()


class _Node(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One of our measuring pods. ``node`` and ``address`` are None until it is scheduled and has an IP."""

    uid: str
    name: str
    role: Role
    service_account: str
    node: str | None
    address: str | None
    terminating: bool

    @property
    def endpoint(self) -> Endpoint | None:
        """Which endpoint it is; None until it is scheduled."""
        return None if self.node is None else Endpoint(self.node, self.role)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the cluster says of a node; None where it says nothing."""

    name: str
    zone: str | None
    instance_type: str | None
    runtime: str | None
    os_image: str | None
    provider_id: str | None


class ClusterView(AbstractAsyncContextManager["ClusterView"]):
    """Our pods and the nodes, as last seen. Use as a context: the watches run inside it.

    ``changed`` is called in the event loop after every change.
    """

    def __init__(self, api: ApiServer, namespace: str, changed: Callable[[], None]) -> None:
        self._pods = Mirror(_Pod, api, f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": OURS}, changed)
        self._nodes = Mirror(_Node, api, "/api/v1/nodes", {}, changed)
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def __aenter__(self) -> Self:
        """Start both watches; what they show grows from here on."""
        self._tasks = tuple(asyncio.create_task(mirror.run()) for mirror in (self._pods, self._nodes))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both watches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def synced(self) -> bool:
        """Whether both kinds have been listed at least once."""
        return self._pods.synced and self._nodes.synced

    def pod(self, uid: str) -> PodFacts | None:
        """Give the measuring pod of that uid; None where there is none (any more)."""
        found = self._pods.objects.get(uid)
        return None if found is None else _pod(found)

    def pods(self) -> tuple[PodFacts, ...]:
        """All measuring pods, by name."""
        facts = (_pod(item) for item in self._pods.objects.values())
        return tuple(sorted((pod for pod in facts if pod is not None), key=lambda pod: pod.name))

    def node(self, name: str) -> NodeFacts | None:
        """Give what the cluster says of that node; None where there is none (any more)."""
        found = (node for node in self._nodes.objects.values() if node.metadata.name == name)
        return next(map(_node, found), None)


def _pod(pod: _Pod) -> PodFacts | None:
    role = _ROLES.get(pod.metadata.labels.get(COMPONENT, ""))
    if role is None or pod.status.phase in ("Succeeded", "Failed"):
        return None
    return PodFacts(
        uid=pod.metadata.uid,
        name=pod.metadata.name,
        role=role,
        service_account=pod.spec.service_account_name,
        node=pod.spec.node_name,
        address=pod.status.pod_ip or None,
        terminating=pod.metadata.deletion_timestamp is not None,
    )


def _node(node: _Node) -> NodeFacts:
    labels, info = node.metadata.labels, node.status.node_info
    return NodeFacts(
        name=node.metadata.name,
        zone=labels.get("topology.kubernetes.io/zone"),
        instance_type=labels.get("node.kubernetes.io/instance-type"),
        runtime=info.container_runtime_version,
        os_image=info.os_image,
        provider_id=node.spec.provider_id,
    )
