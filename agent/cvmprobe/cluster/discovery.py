"""Which of our pods run where, and what their nodes are: a mirror of our own namespace's pods and of all nodes."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from kubernetes.aio.client import ApiClient, CoreV1Api, V1Node, V1Pod

from cvmprobe.cluster.mirror import Mirror
from cvmprobe.model.endpoint import Endpoint, Role

__all__ = ["ClusterView", "NodeFacts", "PodFacts"]

COMPONENT: Final = "app.kubernetes.io/component"
_ROLES: Final[Mapping[str, Role]] = {"agent": Role.POD, "peer": Role.PEER, "host": Role.HOST}
_LABELS: Final = "app.kubernetes.io/name=cvmprobe"


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
    ready: bool
    zone: str | None
    instance_type: str | None
    runtime: str | None
    os_image: str | None
    kernel: str | None
    provider_id: str | None


class ClusterView(AbstractAsyncContextManager["ClusterView"]):
    """Our pods and the nodes, as last seen. Use as a context: the watches run inside it.

    ``changed`` is called in the event loop after every change.
    """

    def __init__(self, api: ApiClient, namespace: str, changed: Callable[[], None]) -> None:
        core = CoreV1Api(api)
        self._pods = Mirror("pods", core.list_namespaced_pod, changed, namespace=namespace, label_selector=_LABELS)
        self._nodes = Mirror("nodes", core.list_node, changed)
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
        return self._pods.synced_at is not None and self._nodes.synced_at is not None

    def pod(self, uid: str) -> PodFacts | None:
        """Give the measuring pod of that uid; None where there is none (any more)."""
        found = self._pods.objects.get(uid)
        return None if found is None else _pod(found)

    def pods(self) -> tuple[PodFacts, ...]:
        """All measuring pods, by name."""
        facts = (_pod(item) for item in self._pods.objects.values())
        return tuple(sorted((pod for pod in facts if pod is not None), key=lambda pod: pod.name))

    def nodes(self) -> tuple[NodeFacts, ...]:
        """All nodes, by name."""
        return tuple(sorted(map(_node, self._nodes.objects.values()), key=lambda node: node.name))


def _pod(pod: V1Pod) -> PodFacts | None:
    metadata, spec, status = pod.metadata, pod.spec, pod.status
    if metadata is None or spec is None or metadata.uid is None or metadata.name is None:
        return None
    role = _ROLES.get((metadata.labels or {}).get(COMPONENT, ""))
    if role is None or (status is not None and status.phase in ("Succeeded", "Failed")):
        return None
    return PodFacts(
        uid=metadata.uid,
        name=metadata.name,
        role=role,
        service_account=spec.service_account_name or "default",
        node=spec.node_name,
        address=None if status is None else status.pod_ip,
        terminating=metadata.deletion_timestamp is not None,
    )


def _node(node: V1Node) -> NodeFacts:
    labels = (node.metadata.labels if node.metadata else None) or {}
    info = node.status.node_info if node.status else None
    conditions = (node.status.conditions if node.status else None) or ()
    return NodeFacts(
        name=(node.metadata.name if node.metadata else None) or "",
        ready=any(condition.type == "Ready" and condition.status == "True" for condition in conditions),
        zone=labels.get("topology.kubernetes.io/zone"),
        instance_type=labels.get("node.kubernetes.io/instance-type"),
        runtime=info.container_runtime_version if info else None,
        os_image=info.os_image if info else None,
        kernel=info.kernel_version if info else None,
        provider_id=node.spec.provider_id if node.spec else None,
    )
