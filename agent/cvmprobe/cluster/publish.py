"""Make the collector's CA certificate known: one ConfigMap, which the base ships empty."""

from typing import Final

import msgspec

from cvmprobe.cluster.api import SILENCE, ApiServer, RefusalError
from cvmprobe.cluster.names import CA_KEY, CONFIG_MAP
from cvmprobe.errors import DeniedError, UnreachableError

__all__ = ["cluster_uid", "publish_ca"]

_TIMEOUT_S: Final = 5


class _ConfigMap(msgspec.Struct, frozen=True):
    data: dict[str, str] | None = None


class _Named(msgspec.Struct, frozen=True):
    uid: str


class _Namespace(msgspec.Struct, frozen=True):
    metadata: _Named


async def publish_ca(api: ApiServer, namespace: str, certificate_pem: bytes) -> None:
    """Write the certificate into the ConfigMap, unless it is there already.

    Raises DeniedError where the right or the ConfigMap is missing, UnreachableError where nobody answers.
    """
    path, text = f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}", certificate_pem.decode()
    try:
        found = msgspec.json.decode(await api.get(path, {}, within_s=_TIMEOUT_S), type=_ConfigMap)
        if (found.data or {}).get(CA_KEY) != text:
            await api.send("PATCH", path, {"data": {CA_KEY: text}}, within_s=_TIMEOUT_S)
    except (RefusalError, ValueError, *SILENCE) as error:
        raise _in_words(f"ConfigMap {namespace}/{CONFIG_MAP}", error) from error


async def cluster_uid(api: ApiServer) -> str:
    """Name of the cluster that no other cluster has: the uid of its namespace kube-system. Raises as ``publish_ca``."""
    try:
        found = await api.get("/api/v1/namespaces/kube-system", {}, within_s=_TIMEOUT_S)
        return msgspec.json.decode(found, type=_Namespace).metadata.uid
    except (RefusalError, ValueError, *SILENCE) as error:
        raise _in_words("namespace kube-system", error) from error


def _in_words(what: str, error: Exception) -> DeniedError | UnreachableError:
    if isinstance(error, RefusalError):
        return DeniedError(f"{what}: {error}; apply deploy/base")
    return UnreachableError(f"{what}: the API server does not answer ({type(error).__name__})")
