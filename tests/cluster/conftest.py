"""One deployment for all tests of the session; removed at the end, whatever happened."""

import os
import shutil
import time

import pytest
from tests.cluster import kube


@pytest.fixture(scope="session")
def deployed():
    """The base, applied from nothing; gives how long it took until all pods were Ready, in s."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    began = time.monotonic()
    try:
        kube.run("kubectl", "apply", "-k", str(kube.ROOT / "deploy/base"))
        kube.until("all pods Ready", kube.pods_ready, 120)
        yield time.monotonic() - began
    finally:
        kube.run("kubectl", "delete", "-k", str(kube.ROOT / "deploy/base"), "--ignore-not-found", timeout=180)


@pytest.fixture
def node_exec():
    """A way onto the nodes themselves."""
    if not kube.NODE_EXEC:
        pytest.skip("CVMPROBE_TEST_NODE_EXEC gives no way onto the nodes")
    return kube.node_exec
