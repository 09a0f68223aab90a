"""The collector of a cluster, and its agents, reached through a person's kubeconfig."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cvmprobe.cli.output import aside
from cvmprobe.cluster.names import AUDIENCE, COLLECTOR_PORT, NAMESPACE, PROBE_SERVICE_PORT, SERVER_NAME
from cvmprobe.errors import UnreachableError, UsageError
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.identity import Access
from cvmprobe.wire.tls import ClientTls

if TYPE_CHECKING:
    from cvmprobe.cluster.kubeconfig import Kubeconfig

__all__ = ["ClusterWay", "kubeconfig_there"]


def kubeconfig_there() -> bool:
    """Whether this person has a kubeconfig, or means to have one."""
    return bool(os.environ.get("KUBECONFIG")) or (Path.home() / ".kube" / "config").is_file()


class ClusterWay:
    """Opens a tunnel to the pod as it is now called, with a token of the ServiceAccount for ``access``."""

    lasting: ClassVar[bool] = True

    def __init__(self, access: Access, kubeconfig: Path | None, context: str | None, namespace: str | None) -> None:
        self._access = access
        self._kubeconfig = kubeconfig
        self._context = context
        self._namespace = namespace or NAMESPACE
        self._told = False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ProbeClient]:
        """Open a client of the collector."""
        async with self._cluster() as cluster:
            pod = await cluster.pod("collector")
            tls = ClientTls(await cluster.ca_certificate(), SERVER_NAME)
            token = await cluster.token(f"cvmprobe-{self._access}", AUDIENCE)
            self._say(f"asking the collector in context {cluster.context}, namespace {self._namespace}")
            async with _through(cluster, pod, COLLECTOR_PORT, tls, token) as client:
                yield client

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[ProbeClient]:
        """Open a client of the own service of an agent pod; the right to forward its port is all that guards it."""
        node, _, role = name.partition("/")
        if role not in ("", Role.POD):
            raise UsageError(
                f"--agent {name!r}: only agent pods serve themselves; watch it at the collector: --node {node}"
            )
        async with self._cluster() as cluster:
            pod = await cluster.pod("agent", node)
            tls = ClientTls(await cluster.ca_certificate(), Endpoint(node, Role.POD).server_name)
            self._say(f"asking pod {pod} in context {cluster.context}, namespace {self._namespace}")
            async with _through(cluster, pod, PROBE_SERVICE_PORT, tls, "") as client:
                yield client

    def _cluster(self) -> "Kubeconfig":
        from cvmprobe.cluster.kubeconfig import Kubeconfig

        return Kubeconfig(self._kubeconfig, self._context, self._namespace)

    def _say(self, text: str) -> None:
        if not self._told:
            aside(text)
        self._told = True


@asynccontextmanager
async def _through(
    cluster: "Kubeconfig", pod: str, port: int, tls: ClientTls, token: str
) -> AsyncIterator[ProbeClient]:
    """Open a client through a tunnel; what is wrong with the tunnel is told rather than what it does to the call."""
    from cvmprobe.cluster.tunnel import Tunnel

    name = f"pod {pod} in context {cluster.context}"
    async with Tunnel(cluster, pod, port) as tunnel, ProbeClient(tunnel.address, tls, token, name) as client:
        try:
            yield client
        except UnreachableError as error:
            if tunnel.trouble is None:
                raise
            raise tunnel.trouble from error
