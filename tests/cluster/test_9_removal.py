"""After `kubectl delete -k` nothing of ours is in the cluster: every kind of object there is, is asked for."""

from tests.cluster import kube


def left():
    kinds = kube.run("kubectl", "api-resources", "--verbs=list", "-o", "name").stdout.split()
    found = []
    for kind in kinds:
        listed = kube.run("kubectl", "get", kind, "--all-namespaces", "-o", "name", "--ignore-not-found", check=False)
        found += [f"{kind}: {name}" for name in listed.stdout.split() if "cvmprobe" in name]
    return found


def test_nothing_is_left(deployed):
    kube.run("kubectl", "delete", "-k", str(kube.ROOT / "deploy/base"), timeout=180)
    assert kube.until("the namespace is gone", lambda: not [line for line in left() if "events" not in line], 90)
