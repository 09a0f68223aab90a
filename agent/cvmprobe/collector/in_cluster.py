"""A collector's surroundings in Kubernetes: the API server reviews tokens, its watches show pods and nodes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from cvmprobe.cluster.api import api_server
from cvmprobe.cluster.discovery import ClusterView, NodeFacts, PodFacts
from cvmprobe.cluster.identity import Identity, TokenReviews
from cvmprobe.cluster.names import AUDIENCE
from cvmprobe.cluster.publish import cluster_uid, publish_ca
from cvmprobe.collector.ways import Peer
from cvmprobe.errors import DeniedError, UnreachableError, WireError
from cvmprobe.model.delivery import Hello
from cvmprobe.model.endpoint import Endpoint, PeerAddress, Role
from cvmprobe.model.environment import Fact
from cvmprobe.wire.identity import Access, Authenticator, Principal

__all__ = ["ClusterSurroundings", "PodAuthenticator", "in_cluster"]

_LOG = logging.getLogger(__name__)

_AGENTS: Final[Mapping[str, Role]] = {"cvmprobe-agent": Role.POD, "cvmprobe-peer": Role.PEER}
_PEOPLE: Final[Mapping[str, Access]] = {
    "cvmprobe-viewer": Access.VIEWER,
    "cvmprobe-runner": Access.RUNNER,
    "cvmprobe-admin": Access.ADMIN,
}
_SOURCE: Final = "kubernetes node object"
_COLLECTOR: Final = Fact("hosts_collector", "true", "the collector's pod")
_RETRY_S: Final = 1.0
_PUBLISH_S: Final = 60.0
_T = TypeVar("_T")


class PodAuthenticator:
    """Agents by the pod their token is bound to, people by the ServiceAccount they may take a token of."""

    def __init__(self, identify: Callable[[str], Awaitable[Identity | None]], view: ClusterView) -> None:
        self._identify = identify
        self._view = view

    async def authenticate(self, token: str) -> Principal | None:
        """Who holds ``token``; see ``wire.identity.Authenticator``."""
        identity = await self._identify(token)
        if identity is None:
            return None
        account = identity.service_account
        if account in _PEOPLE:
            return Principal(account, _PEOPLE[account], expires_unix_ms=identity.expires_unix_ms)
        if account not in _AGENTS:
            raise DeniedError(f"ServiceAccount {account} is none that may come in")
        pod = self._pod(identity)
        return Principal(
            pod.name,
            Access.AGENT,
            node=pod.node,
            role=pod.role,
            pod_uid=pod.uid,
            expires_unix_ms=identity.expires_unix_ms,
        )

    def _pod(self, identity: Identity) -> PodFacts:
        """Return the pod the token is bound to, which must be what its ServiceAccount is for."""
        account, uid = identity.service_account, identity.pod_uid
        if uid is None:
            raise DeniedError(f"this token of ServiceAccount {account} is bound to no pod")
        pod = self._view.pod(uid)
        if pod is None or pod.node is None:
            raise UnreachableError(f"pod {uid} of ServiceAccount {account} is not to be seen yet; try again")
        if pod.service_account != account or pod.role is not _AGENTS[account]:
            raise DeniedError(f"pod {pod.name} is a {pod.role} of {pod.service_account}, its token is of {account}")
        if identity.node not in (None, pod.node):
            raise DeniedError(f"pod {pod.name} runs on {pod.node}, its token says {identity.node}")
        return pod


class ClusterSurroundings:
    """Implements ``surroundings.Surroundings``."""

    all_known = True

    def __init__(self, cluster: str, authenticator: Authenticator, view: ClusterView, node: str) -> None:
        self.cluster = cluster
        self.authenticator = authenticator
        self._view = view
        self._node = node

    def peer(self, hello: Hello, principal: Principal) -> Peer | None:
        """Return the peer at its pod's address; None while it has none, and once the pod is going."""
        pod = self._view.pod(principal.pod_uid or "")
        if pod is None or pod.terminating or pod.address is None or hello.responder_port == 0:
            return None
        return Peer(hello.endpoint, hello.boot_id, hello.start_id, PeerAddress(pod.address, hello.responder_port))

    def expected(self) -> Sequence[Endpoint]:
        """Return the endpoints of all our pods that are on a node."""
        return [pod.endpoint for pod in self._view.pods() if pod.endpoint is not None]

    def facts(self, node: str) -> Sequence[Fact]:
        """Return what the node object says, and whether the collector works there too."""
        found = self._view.node(node)
        ours = [_COLLECTOR] if node == self._node else []
        return [*ours, *(() if found is None else _facts(found))]


def _facts(node: NodeFacts) -> Sequence[Fact]:
    values = {
        "zone": node.zone,
        "instance_type": node.instance_type,
        "container_runtime": node.runtime,
        "os_image": node.os_image,
        "provider_id": node.provider_id,
    }
    return [Fact(name, value, _SOURCE) for name, value in values.items()]


@asynccontextmanager
async def in_cluster(namespace: str, node: str, ca_pem: bytes) -> AsyncIterator[ClusterSurroundings]:
    """Have the surroundings, once the API server has told all that they need; publish the CA certificate meanwhile.

    Waits for as long as it does not answer. Raises ConfigError where nothing says how to reach it.
    """
    async with api_server() as api:
        cluster = await _insist(lambda: cluster_uid(api))
        synced = asyncio.Event()
        async with ClusterView(api, namespace, synced.set) as view:
            while not view.synced:
                await synced.wait()
                synced.clear()
            reviews = TokenReviews(api, namespace, AUDIENCE)
            publishing = asyncio.create_task(_publish(lambda: publish_ca(api, namespace, ca_pem)))
            try:
                yield ClusterSurroundings(cluster, PodAuthenticator(reviews.identify, view), view, node)
            finally:
                publishing.cancel()
                await asyncio.wait({publishing})


async def _publish(publish: Callable[[], Awaitable[None]]) -> None:
    """Publish now, and look again now and then: whoever applies the manifests anew may have emptied it."""
    while True:
        await _insist(publish)
        await asyncio.sleep(_PUBLISH_S)


async def _insist(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask until there is an answer: rights may come a moment after us, and the API server may be away."""
    said = ""
    while True:
        try:
            return await ask()
        except WireError as error:
            if str(error) != said:
                said = str(error)
                _LOG.warning("%s; trying again", said)
        await asyncio.sleep(_RETRY_S)
