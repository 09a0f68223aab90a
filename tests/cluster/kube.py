"""A cluster as its operator sees it: kubectl, and our own command line. Nothing here knows how the cluster was made."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "cvmprobe"
NODE_EXEC = os.environ.get("CVMPROBE_TEST_NODE_EXEC", "").split()
"""A command that runs another on a node: NODE_EXEC NODE COMMAND … ; what needs it is skipped without."""


def run(*command: str, check: bool = True, timeout: float = 120, **options) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its output is kept, and shown when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
    if check and done.returncode != 0:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        raise AssertionError(f"{' '.join(command)} exited {done.returncode}\n{said}")
    return done


def kubectl(*arguments: str, check: bool = True, timeout: float = 120, **options) -> str:
    """Call kubectl in our namespace; returns what it printed."""
    return run("kubectl", "--namespace", NAMESPACE, *arguments, check=check, timeout=timeout, **options).stdout


def get(*arguments: str):
    """Objects as JSON."""
    return json.loads(kubectl("get", *arguments, "-o", "json"))


def cvmprobe(*arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Call our command line, as installed beside this Python."""
    return run(str(Path(sys.executable).with_name("cvmprobe")), *arguments, check=check, timeout=timeout)


def rows(*arguments: str):
    """What a verb prints with -o json."""
    return json.loads(cvmprobe(*arguments, "-o", "json").stdout)


def until(what: str, holds: Callable[[], object], within_s: float = 60):
    """Wait until ``holds()`` is truthy and return that; a bound on a condition, not a sleep."""
    end = time.monotonic() + within_s
    last: object = None
    while time.monotonic() < end:
        try:
            last = holds()
        except AssertionError as error:  # the API server or the collector may be away for a while
            last = str(error)[-500:]
        else:
            if last:
                return last
        time.sleep(0.5)
    raise AssertionError(f"not within {within_s:.0f} s: {what}; last seen: {last}")


def node_exec(node: str, *command: str, check: bool = True) -> str:
    """Run a command on a node itself."""
    return run(*NODE_EXEC, node, *command, check=check).stdout


def nodes() -> list[str]:
    """Names of the nodes that agents run on."""
    return sorted(item["metadata"]["name"] for item in get("nodes")["items"])


def pod_on(node: str, component: str) -> str:
    """Name of the running pod of a component on a node."""
    for pod in get("pods", "-l", f"app.kubernetes.io/component={component}")["items"]:
        alive = pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        if alive and pod["spec"]["nodeName"] == node:
            return pod["metadata"]["name"]
    raise AssertionError(f"no {component} runs on {node}")


def pods_ready() -> bool:
    """Whether every pod that should be there is there and Ready."""
    ready = [_ready(workload) for workload in get("daemonsets,statefulsets")["items"]]
    return len(ready) == 3 and all(ready)


def _ready(workload) -> bool:
    status, spec = workload["status"], workload["spec"]
    wanted = status.get("desiredNumberScheduled", spec.get("replicas"))
    return bool(wanted) and status.get("numberReady", status.get("readyReplicas", 0)) == wanted
