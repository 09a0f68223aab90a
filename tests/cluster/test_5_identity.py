"""Who is refused, and what a stranger's client gets."""

import json
import shutil
import subprocess
import time

import pytest
from tests.cluster import forward, kube

from cvmprobe.errors import DeniedError
from cvmprobe.model.query import Selection
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.tls import ClientTls

KNOCK = """
import json, socket, sys
answers = []
for say in (b"", b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", b"CVMP\\x01" + bytes(200), bytes(4096)):
    with socket.create_connection((sys.argv[1], 7411), timeout=5) as s:
        s.sendall(say)
        s.settimeout(5)
        try:
            answers.append(s.recv(100).hex())
        except (TimeoutError, ConnectionError):
            answers.append("")
print(json.dumps(answers))
"""


async def calls(token, address):
    """What a holder of ``token`` may do: names of the calls that were not refused."""
    passed = set()
    async with ProbeClient(address, ClientTls(forward.ca().encode(), forward.SERVER_NAME), token) as probes:
        for name, call in (
            ("look", probes.list_nodes),
            ("list", lambda: probes.list_probes(Selection())),
            ("run", lambda: probes.cancel_run("0" * 32)),
        ):
            try:
                await call()
            except DeniedError:
                continue
            except Exception:  # noqa: BLE001 - refused for another reason than who is calling: it was let in
                pass
            passed.add(name)
    return passed


async def test_each_role_may_do_its_own_and_strangers_nothing(deployed):
    with forward.forwarded() as address:
        assert await calls(forward.token("cvmprobe-viewer"), address) == {"look", "list"}
        assert await calls(forward.token("cvmprobe-runner"), address) == {"look", "list", "run"}
        assert await calls(forward.token("cvmprobe-admin"), address) == {"look", "list", "run"}
        assert await calls(forward.token("cvmprobe-viewer", audience="another"), address) == set()
        assert await calls(forward.token("default"), address) == set()
        assert await calls(forward.token("default", namespace="default"), address) == set()
        assert await calls(forward.token("cvmprobe-agent"), address) == set()
        assert await calls("not-a-token", address) == set()


def test_a_pod_outside_the_project_gets_nothing_from_a_responder(deployed):
    agent = next(pod for pod in kube.get("pods", "-l", "app.kubernetes.io/component=agent")["items"])
    image = agent["spec"]["containers"][0]["image"]
    made = kube.run(
        *("kubectl", "--namespace", "default", "run", "cvmprobe-test-stranger", "--rm", "--attach", "--quiet"),
        *("--restart=Never", "--image-pull-policy=IfNotPresent", f"--image={image}", "--command", "--"),
        *("python", "-c", KNOCK, agent["status"]["podIP"]),
    )
    assert json.loads(made.stdout.strip().splitlines()[-1]) == ["", "", "", ""]


@pytest.mark.skipif(shutil.which("npx") is None, reason="there is no npx to run buf with")
def test_a_strangers_client_lists_nodes_and_watches(deployed, tmp_path):
    (tmp_path / "ca.crt").write_text(forward.ca())
    with forward.forwarded() as address:
        buf = [
            *(
                "npx",
                "--yes",
                "@bufbuild/buf@1.75.0",
                "curl",
                "--protocol",
                "grpc",
                "--cacert",
                str(tmp_path / "ca.crt"),
            ),
            *("--servername", forward.SERVER_NAME, "--reflect-protocol", "grpc-v1alpha"),
            *("--header", f"authorization: Bearer {forward.token('cvmprobe-viewer')}"),
            *("--reflect-header", f"authorization: Bearer {forward.token('cvmprobe-viewer')}"),
        ]
        service = f"https://{address}/cvmprobe.v1.ProbeService"
        listed = kube.run(*buf, f"{service}/ListNodes", cwd=tmp_path).stdout
        assert all(node in listed for node in kube.nodes())
        watch = [*buf, f"{service}/WatchWindows"]
        with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as watching:
            began = time.monotonic()
            line = watching.stdout.readline()
            print(f"\nfirst live window after {time.monotonic() - began:.1f} s")
            watching.terminate()
        assert line.startswith("{")
