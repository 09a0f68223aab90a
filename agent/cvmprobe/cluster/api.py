"""The collector's way to the API server: from its pod by its own ServiceAccount, from elsewhere by the kubeconfig.

Requests and answers are plain JSON: the client's models take a second and 30 MB, and know nothing that we need.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import msgspec
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from cvmprobe.errors import ConfigError

__all__ = ["SILENCE", "ApiServer", "RefusalError", "api_server"]

SILENCE: Final = (aiohttp.ClientError, OSError, TimeoutError)
"""What is raised where the API server does not answer, or breaks off."""

_LONGEST_WAIT_S: Final = 60.0


class _Status(msgspec.Struct, frozen=True):
    message: str = ""


class RefusalError(Exception):
    """The API server answers, and says no. ``wait_s`` is how long it asks to be left alone; None: it does not."""

    def __init__(self, status: int, message: str, wait_s: float | None = None) -> None:
        super().__init__(f"the API server answers {status}: {message}")
        self.status = status
        self.wait_s = wait_s


class ApiServer:
    """Asks one API server. Every method raises RefusalError, and ``SILENCE`` where nobody answers."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def get(self, path: str, query: Mapping[str, str], *, within_s: float) -> bytes:
        """Return what is at ``path``."""
        async with self.open("GET", path, query, within_s=within_s) as response:
            return await response.read()

    async def send(self, method: str, path: str, body: object, *, within_s: float) -> bytes:
        """POST an object, or PATCH one by merging; return the answer."""
        async with self.open(method, path, {}, body, within_s=within_s) as response:
            return await response.read()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, query: Mapping[str, str], body: object = None, *, within_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Have an answer that goes on, for ``within_s`` in all at the most."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        _, url, headers, *_ = await self._client.param_serialize(
            method,
            path,
            query_params=[*query.items()],
            header_params={"Accept": "application/json", "Content-Type": kind},
            auth_settings=["BearerToken"],
        )
        answer: Any = await self._client.call_api(method, url, headers, body, _request_timeout=within_s)
        async with answer.response as response:
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise RefusalError(response.status, await _message(response), _wait_s(response))
            yield response


@asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    """Have the API server that our surroundings name. Raises ConfigError where nothing does."""
    settings = Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(settings)
        else:
            file = os.environ.get("KUBECONFIG", config.KUBE_CONFIG_DEFAULT_LOCATION)
            await config.load_kube_config(file, client_configuration=settings, persist_config=False)
    except (config.ConfigException, OSError, ValueError) as error:
        raise ConfigError(f"collector.identity = kubernetes: no way to the API server: {error}") from error
    async with ApiClient(settings) as client:
        yield ApiServer(client)


async def _message(response: aiohttp.ClientResponse) -> str:
    body = await response.read()
    try:
        return msgspec.json.decode(body, type=_Status).message or response.reason or ""
    except ValueError:
        return response.reason or ""


def _wait_s(response: aiohttp.ClientResponse) -> float | None:
    """Read how long to leave the server alone (429 and 503 may say so)."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), _LONGEST_WAIT_S) if value.isdecimal() else None
