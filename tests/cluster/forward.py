"""A stranger's way in: kubectl port-forward and kubectl create token, and nothing of ours."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import kube

COLLECTOR = "pod/cvmprobe-collector-0"
SERVER_NAME = "cvmprobe-collector"


@contextmanager
def forwarded(target: str = COLLECTOR, port: int = 7410) -> Iterator[str]:
    """Forward a free port of our loopback to a pod's; gives host:port."""
    command = ["kubectl", "--namespace", kube.NAMESPACE, "port-forward", target, f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:\d+", line)
            assert found, f"kubectl port-forward printed {line!r}"
            yield found[0]
        finally:
            process.terminate()


def token(account: str, audience: str = "cvmprobe", namespace: str = kube.NAMESPACE) -> str:
    """A short-lived token of a ServiceAccount."""
    made = kube.run(
        "kubectl", "--namespace", namespace, "create", "token", account, f"--audience={audience}", "--duration=10m"
    )
    return made.stdout.strip()


def ca() -> str:
    """The collector's CA certificate, as anybody may read it who may see the ConfigMap."""
    return kube.get("configmap", "cvmprobe-ca")["data"]["ca.crt"]
