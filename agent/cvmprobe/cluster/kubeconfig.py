"""What a person's kubeconfig gives: a short-lived token of ours, the collector's CA, our pods, and ways into them.

The kubeconfig's own credential goes to the API server and to nobody else.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from cvmprobe.cluster.names import CA_KEY, COMPONENT, CONFIG_MAP, OURS
from cvmprobe.errors import DeniedError, UnreachableError, UsageError

__all__ = ["Kubeconfig"]

_TIMEOUT_S: Final = 10
_TOKEN_S: Final = 600
_PROTOCOL: Final = "v4.channel.k8s.io"  # of a port-forward: each message begins with the number of its channel
_REFUSALS: Final = (400, 401, 403, 404, 405, 422)  # what another attempt would be answered as well
_LOG: Final = logging.getLogger("kubernetes.aio.config.kube_config")


class Kubeconfig(AbstractAsyncContextManager["Kubeconfig"]):
    """One context of a person's kubeconfig, read anew each time it is entered; every method asks its API server.

    ``file`` None means $KUBECONFIG, else ~/.kube/config. Entering raises UsageError where it or the context cannot be
    used. The methods raise DeniedError, or UnreachableError where another attempt may do.

    Requests and answers are plain JSON: the client's models take a second to import, and a laptop waits for it.
    """

    def __init__(self, file: Path | None, context: str | None, namespace: str) -> None:
        self.context = context or ""
        self.namespace = namespace
        self._files = str(file or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
        self._settings = Configuration()

    async def __aenter__(self) -> Self:
        """Read the kubeconfig, and ask its credential plugin where it names one."""
        try:
            with _outspoken():
                loader: Any = await config.load_kube_config(
                    self._files, self.context or None, self._settings, persist_config=False
                )
            self._api = ApiClient(self._settings)
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{self._files} cannot be used: {error}; name another with KUBECONFIG, --kubeconfig or --context"
            ) from error
        self.context = str(loader.current_context["name"])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what is open to the API server."""
        await self._api.close()

    async def token(self, service_account: str, audience: str) -> str:
        """Ask for a 10-minute token of that ServiceAccount; RBAC on serviceaccounts/token decides who gets it."""
        answer = await self._ask(
            f"a token of ServiceAccount {self.namespace}/{service_account}",
            "POST",
            f"serviceaccounts/{service_account}/token",
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [audience], "expirationSeconds": _TOKEN_S},
            },
        )
        return str(answer["status"]["token"])

    async def ca_certificate(self) -> bytes:
        """Read the collector's CA certificate (PEM) from the ConfigMap it publishes it in."""
        what = f"ConfigMap {self.namespace}/{CONFIG_MAP}"
        found = await self._ask(what, "GET", f"configmaps/{CONFIG_MAP}")
        text = (found.get("data") or {}).get(CA_KEY, "")
        if not text:
            raise UnreachableError(f"{what} is empty: the collector has not started yet; wait for its pod to be Ready")
        return str(text).encode()

    async def pod(self, component: str, node: str | None = None) -> str:
        """Name a running pod of ``component`` (on ``node``, where one is given)."""
        what = f"pods in namespace {self.namespace}"
        listed = await self._ask(what, "GET", "pods", query={"labelSelector": f"{OURS},{COMPONENT}={component}"})
        running: dict[str, str] = {
            pod["metadata"]["name"]: pod["spec"]["nodeName"]
            for pod in listed["items"]
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        }
        for name, its_node in running.items():
            if node in (None, its_node):
                return name
        where = f"on node {node} " if node else ""
        there = f"it runs on {', '.join(sorted(set(running.values())))}" if running else "apply deploy/base, or wait"
        raise UnreachableError(
            f"context {self.context}: no {component} of cvmprobe runs {where}in namespace {self.namespace}; {there}"
        )

    @asynccontextmanager
    async def forward(self, pod: str, port: int) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open one connection to a port on the pod's own loopback, as messages of ``v4.channel.k8s.io``."""
        what = f"port-forward to pod {self.namespace}/{pod}"
        socket = await self._upgrade(what, pod, port)
        try:
            yield socket
        finally:
            await socket.close()

    async def _upgrade(self, what: str, pod: str, port: int) -> aiohttp.ClientWebSocketResponse:
        # The client's own call for this knows neither a proxy nor tls-server-name.
        url, headers = await self._address("GET", f"pods/{pod}/portforward", {"ports": str(port)})
        session = self._api.rest_client.pool_manager or self._api.rest_client._create_pool_manager()  # noqa: SLF001 - as its own websocket client does
        self._api.rest_client.pool_manager = session
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await session.ws_connect(
                    url,
                    protocols=[_PROTOCOL],
                    headers=headers,
                    proxy=self._settings.proxy,
                    proxy_headers=self._settings.proxy_headers,
                    server_hostname=self._settings.tls_server_name,
                )
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise DeniedError(f"{what}: {self._refusal(error.status)}") from error
            reason = "the pod is gone" if error.status == HTTPStatus.NOT_FOUND else error.message
            raise UnreachableError(f"{what}: the API server answers {error.status}: {reason}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(f"{what}: {self._silence(error)}") from error

    async def _ask(
        self, what: str, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> Any:  # JSON
        url, headers = await self._address(method, path, query or {})
        try:
            headers["Accept"] = "application/json"
            answer = await self._api.call_api(method, url, headers, body, _request_timeout=_TIMEOUT_S)
            content: bytes = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(f"{what}: {self._silence(error)}") from error
        if answer.status in _REFUSALS:
            raise DeniedError(f"{what}: {self._refusal(answer.status, content)}")
        try:
            if answer.status < HTTPStatus.BAD_REQUEST:
                return json.loads(content)
        except ValueError:
            pass
        raise UnreachableError(f"{what}: the API server answers {answer.status} {answer.reason}")

    async def _address(self, method: str, path: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Give the URL of something in our namespace, and the headers that carry the person's credential."""
        _, url, headers, *_ = await self._api.param_serialize(
            method,
            "/api/v1/namespaces/{namespace}/" + path,
            path_params={"namespace": self.namespace},
            query_params=[*query.items()],
            auth_settings=["BearerToken"],
        )
        return url, headers

    def _refusal(self, status: int, body: bytes = b"") -> str:
        """Say what the API server answers, and what to do."""
        advice = {
            401: f"it does not accept the credential of context {self.context}; log in to that cluster again",
            403: f"ask for the Role cvmprobe-viewer or cvmprobe-runner in namespace {self.namespace}",
            404: "is cvmprobe installed there? Apply deploy/base, or name its --namespace",
        }
        parts = [f"the API server answers {status}", _message(body), advice.get(status, "")]
        return "; ".join(part for part in parts if part)

    def _silence(self, error: Exception) -> str:
        reason = str(error) or type(error).__name__
        return f"the API server {self._settings.host} of context {self.context} does not answer ({reason})"


def _message(body: bytes) -> str:
    """Take the sentence for people out of the API server's Status; empty where there is none."""
    try:
        status = json.loads(body)
    except ValueError:
        return ""
    return str(status.get("message", "")) if isinstance(status, dict) else ""


class _Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of a record."""
        self.heard.append(record.getMessage())


@contextmanager
def _outspoken() -> Iterator[None]:
    """Raise what the kubeconfig's loader only logs, such as why a credential plugin failed."""
    handler = _Listener(logging.WARNING)
    _LOG.addHandler(handler)
    propagate, _LOG.propagate = _LOG.propagate, False
    try:
        yield
    except config.ConfigException as error:
        raise config.ConfigException("; ".join(handler.heard) or str(error)) from error
    finally:
        _LOG.propagate = propagate
        _LOG.removeHandler(handler)
    if handler.heard:
        raise config.ConfigException("; ".join(handler.heard))
