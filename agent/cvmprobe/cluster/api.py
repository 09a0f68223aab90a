"""The way to the API server: from a pod by its own ServiceAccount, from elsewhere by the kubeconfig."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from cvmprobe.errors import ConfigError

__all__ = ["api_client"]


@asynccontextmanager
async def api_client() -> AsyncIterator[ApiClient]:
    """Have a client of the API server. Raises ConfigError where nothing says how to reach it."""
    settings = Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call]  # it has none
        else:
            file = os.environ.get("KUBECONFIG", config.KUBE_CONFIG_DEFAULT_LOCATION)
            await config.load_kube_config(file, client_configuration=settings, persist_config=False)  # type: ignore[no-untyped-call]  # nor this
    except (config.ConfigException, OSError) as error:
        raise ConfigError(f"collector.identity = kubernetes: no way to the API server: {error}") from error
    async with ApiClient(settings) as client:
        yield client
