"""What the base may do, and what it may not: as the API server and the kernel see it."""

import json
import re

import pytest
from tests.cluster import kube

ACCOUNTS = {
    "cvmprobe-agent": set(),
    "cvmprobe-peer": set(),
    "cvmprobe-viewer": set(),
    "cvmprobe-runner": set(),
    "cvmprobe-admin": set(),
    "cvmprobe-collector": {
        ("pods", "", "list watch"),
        ("nodes", "", "list watch"),
        ("configmaps", "cvmprobe-ca", "get patch"),
        ("namespaces", "kube-system", "get"),
        ("tokenreviews.authentication.k8s.io", "", "create"),
    },
}
"""ServiceAccount -> (resource, name, verbs): the list that deploy/README.md documents."""


LOOK = """
import glob, json, os
def refused(path):
    try:
        open(path, "w")
    except OSError as error:
        return error.strerror
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "tokens": [f for f in glob.glob("/var/run/**/token", recursive=True) if os.path.isfile(f)],
    "root": refused("/x"), "opt": refused("/opt/cvmprobe/x"), "uid": os.getuid(), "caps": status["CapEff"].strip(),
    "seccomp": status["Seccomp"].strip(), "nnp": status["NoNewPrivs"].strip(),
}))
"""


def granted(account):
    """What the account may do in our namespace beyond what every authenticated user may."""
    listed = kube.kubectl(
        "auth", "can-i", "--list", f"--as=system:serviceaccount:{kube.NAMESPACE}:{account}", "--no-headers"
    )
    found = set()
    for line in listed.splitlines():
        resource, _, names, verbs = re.match(r"(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]", line).groups()
        if resource and not resource.startswith("self"):
            found.add((resource, names, " ".join(sorted(verbs.split()))))
    return found


@pytest.mark.parametrize("account", sorted(ACCOUNTS))
def test_an_account_may_do_what_is_documented_and_nothing_else(deployed, account):
    everybody = granted("default")  # a ServiceAccount that nothing was ever bound to
    assert granted(account) - everybody == ACCOUNTS[account]


def test_the_documented_list_is_this_one():
    text = (kube.ROOT / "deploy/README.md").read_text()
    for rights in ACCOUNTS.values():
        for resource, name, verbs in rights:
            assert f"| {resource} | {name or 'all'} | {verbs} |" in text


def test_the_namespace_enforces_the_restricted_standard(deployed):
    labels = json.loads(kube.kubectl("get", "namespace", kube.NAMESPACE, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_an_agent_holds_one_token_and_writes_to_its_volumes_only(deployed):
    pod = kube.pod_on(kube.nodes()[0], "agent")
    seen = json.loads(kube.kubectl("exec", pod, "--", "python", "-c", LOOK))
    assert seen["tokens"] == ["/var/run/cvmprobe/token/token"]
    assert seen["root"]
    assert seen["opt"]
    assert (seen["uid"], seen["caps"], seen["seccomp"], seen["nnp"]) == (65532, "0000000000000000", "2", "1")


def test_io_uring_is_refused_and_the_result_says_what_was_used_instead(deployed):
    disk = [row for row in kube.rows("get", "windows", "--since", "30m") if row["probe"] == "disk"]
    if not disk:
        pytest.skip("no run has measured a disk in this session")
    assert {row["facts"]["engine"] for row in disk} == {"libaio"}
    assert all("io_uring" in row["facts"]["fallback"] for row in disk)
