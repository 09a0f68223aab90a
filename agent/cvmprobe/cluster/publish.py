"""Make the collector's CA certificate known: one ConfigMap, which the base ships empty."""

from typing import Final

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException, CoreV1Api

from cvmprobe.cluster.names import CA_KEY, CONFIG_MAP
from cvmprobe.errors import DeniedError, UnreachableError

__all__ = ["cluster_uid", "publish_ca"]

_TIMEOUT_S: Final = 5


async def publish_ca(api: ApiClient, namespace: str, certificate_pem: bytes) -> None:
    """Write the certificate into the ConfigMap, unless it is there already.

    Raises DeniedError where the right or the ConfigMap is missing, UnreachableError where nobody answers.
    """
    core, text = CoreV1Api(api), certificate_pem.decode()
    what = f"ConfigMap {namespace}/{CONFIG_MAP}"
    try:
        found = await core.read_namespaced_config_map(CONFIG_MAP, namespace, _request_timeout=_TIMEOUT_S)
        if (found.data or {}).get(CA_KEY) != text:
            body = {"data": {CA_KEY: text}}
            await core.patch_namespaced_config_map(CONFIG_MAP, namespace, body, _request_timeout=_TIMEOUT_S)
    except ApiException as error:
        raise DeniedError(f"{what}: the API server answers {error.status} {error.reason}; apply deploy/base") from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise UnreachableError(f"{what}: the API server does not answer ({type(error).__name__})") from error


async def cluster_uid(api: ApiClient) -> str:
    """Name of the cluster that no other cluster has: the uid of its namespace kube-system."""
    try:
        found = await CoreV1Api(api).read_namespace("kube-system", _request_timeout=_TIMEOUT_S)
    except ApiException as error:
        raise DeniedError(
            f"namespace kube-system: the API server answers {error.status} {error.reason}; apply deploy/base"
        ) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise UnreachableError(
            f"namespace kube-system: the API server does not answer ({type(error).__name__})"
        ) from error
    if found.metadata is None or not found.metadata.uid:
        raise DeniedError("namespace kube-system: the API server gives no uid for it")
    return found.metadata.uid
