"""The doctor in an agent's pod, and about a node from afar: the same node, told with sources."""

import json

from tests.cluster import kube

SOUND_OR_NOT = (0, 1)
INSIDE = ("python", "-m", "cvmprobe.node.doctor", "--volume", "/var/lib/cvmprobe/scratch", "-o", "json")


def facts_of(done):
    assert done.returncode in SOUND_OR_NOT, done.stderr
    record = json.loads(done.stdout)
    assert record["sound"] == (done.returncode == 0)
    assert record["environment"]["tee"]["attested"] is False
    return {name: fact["value"] for name, fact in record["environment"]["facts"].items()}


def test_the_doctor_runs_in_an_agents_pod_and_from_afar_and_they_agree(deployed):
    node = kube.nodes()[0]
    pod = kube.pod_on(node, "agent")
    inside = facts_of(kube.run("kubectl", "-n", kube.NAMESPACE, "exec", pod, "--", *INSIDE, check=False))
    afar = facts_of(kube.cvmprobe("doctor", "--node", node, "-o", "json", check=False))
    print({name: afar[name] for name in ("engine_io_uring", "engine_libaio", "image", "container_runtime")})
    for name in (
        "kernel",
        "engine_io_uring",
        "engine_libaio",
        "image",
        "seccomp_mode",
        "user_id",
        "volume_scratch_stack",
    ):
        assert inside[name] == afar[name]
    assert (afar["seccomp_mode"], afar["user_id"]) == ("filter", "65532")
    assert inside["timer_late_share"] is not None
    assert "timer_late_share" not in afar
