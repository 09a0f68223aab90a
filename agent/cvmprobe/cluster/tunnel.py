"""The way from a person's kubeconfig to our pods: a short-lived token of ours, and a port-forward.

The kubeconfig's own credential goes to the API server and to nobody else.
"""

import asyncio
import socket
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import urllib3
from kubernetes import client, config
from kubernetes.stream import portforward

from cvmprobe.cluster.publish import CA_KEY, CONFIG_MAP
from cvmprobe.errors import DeniedError, UnreachableError, UsageError

__all__ = ["Kubeconfig", "Tunnel"]

_TIMEOUT_S: Final = 10
_TOKEN_S: Final = 600
_CHUNK: Final = 64 * 1024


class Kubeconfig:
    """One context of a person's kubeconfig. Every method asks the API server; call them in a thread.

    Raises UsageError where the file or context is not usable; the methods raise DeniedError and UnreachableError.
    """

    def __init__(self, file: Path | None, context: str | None, namespace: str) -> None:
        self.namespace = namespace
        self._file = None if file is None else str(file)
        self._context = context
        self._core = client.CoreV1Api(self._client())

    def _client(self) -> client.ApiClient:
        settings = client.Configuration()
        try:
            config.load_kube_config(self._file, self._context, settings)  # type: ignore[no-untyped-call]  # it has none
        except (config.ConfigException, OSError) as error:
            where = self._file or "the kubeconfig"
            advice = "set KUBECONFIG or --kubeconfig, or measure this machine with --local"
            raise UsageError(f"{where}: {error}; {advice}") from error
        return client.ApiClient(settings)

    def token(self, service_account: str, audience: str) -> str:
        """Ask for a 10-minute token of that ServiceAccount; RBAC on serviceaccounts/token decides who gets it."""
        spec = client.V1TokenRequestSpec(audiences=[audience], expiration_seconds=_TOKEN_S)
        request = client.AuthenticationV1TokenRequest(spec=spec)
        answer = self._ask(
            f"a token of ServiceAccount {self.namespace}/{service_account}",
            self._core.create_namespaced_service_account_token,
            service_account,
            self.namespace,
            request,
        )
        return str(answer.status.token)

    def ca_certificate(self) -> bytes:
        """Read the collector's CA certificate (PEM) from the ConfigMap it publishes it in."""
        what = f"ConfigMap {self.namespace}/{CONFIG_MAP}"
        found = self._ask(what, self._core.read_namespaced_config_map, CONFIG_MAP, self.namespace)
        text = (found.data or {}).get(CA_KEY, "")
        if not text:
            raise UnreachableError(f"{what} is empty: the collector has not started yet; wait for its pod to be Ready")
        return str(text).encode()

    def pod(self, component: str, node: str | None = None) -> str:
        """Name a running pod of ``component`` (on ``node``, where one is given)."""
        listed = self._ask(
            f"pods in namespace {self.namespace}",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=f"app.kubernetes.io/name=cvmprobe,app.kubernetes.io/component={component}",
        )
        for pod in listed.items:
            if (
                pod.status.phase == "Running"
                and not pod.metadata.deletion_timestamp
                and node in (None, pod.spec.node_name)
            ):
                return str(pod.metadata.name)
        where = f"on node {node} " if node else ""
        look = f"kubectl -n {self.namespace} get pods"
        raise UnreachableError(f"no {component} of cvmprobe runs {where}in namespace {self.namespace}; see {look}")

    def connect(self, pod: str, port: int) -> socket.socket:
        """Open one forwarded connection to a port on the pod's own loopback."""
        # The stream call borrows its client's transport, so each connection has a client of its own.
        core = client.CoreV1Api(self._client())
        forwarded = self._ask(
            f"port-forward to pod {self.namespace}/{pod}",
            portforward,
            core.connect_get_namespaced_pod_portforward,
            pod,
            self.namespace,
            ports=str(port),
        )
        return socket.socket(fileno=forwarded.socket(port).detach())

    def _ask(self, what: str, call: Any, *arguments: Any, **keywords: Any) -> Any:  # the client's models
        try:
            return call(*arguments, **keywords, _request_timeout=_TIMEOUT_S)
        except client.ApiException as error:
            raise DeniedError(f"{what}: the API server answers {error.status} {error.reason}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(f"{what}: the API server does not answer ({type(error).__name__})") from error


class Tunnel(AbstractAsyncContextManager["Tunnel"]):
    """A port on this machine's loopback that leads to a port of a pod, as ``kubectl port-forward`` makes it."""

    def __init__(self, kubeconfig: Kubeconfig, pod: str, port: int) -> None:
        self._kubeconfig = kubeconfig
        self._pod = pod
        self._port = port
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen, after one connection has shown that the way is open."""
        probe = await asyncio.to_thread(self._kubeconfig.connect, self._pod, self._port)
        probe.close()
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; connections end with their clients."""
        if self._server is not None:
            self._server.close()

    @property
    def address(self) -> str:
        """host:port to dial."""
        if self._server is None:
            raise RuntimeError("the tunnel is used as a context")
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            forwarded = await asyncio.to_thread(self._kubeconfig.connect, self._pod, self._port)
        except (DeniedError, UnreachableError):
            writer.close()  # the caller sees its connection closed, and says so
            return
        far_reader, far_writer = await asyncio.open_connection(sock=forwarded)
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # either end may go at any moment; the other is then closed
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()
