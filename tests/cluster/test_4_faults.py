"""What breaks in a cluster: each time the mesh is whole again within 30 s, and what is missing has been declared."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster import kube

WHOLE_S = 30


def attached():
    return {row["endpoint"]: row for row in kube.rows("get", "nodes") if row["attachment"] == "attached"}


def whole():
    wanted = {f"{node}/{role}" for node in kube.nodes() for role in ("pod", "peer")}
    return wanted <= set(attached())


def accounts_agree():
    for row in attached().values():
        known = None not in (row["numbered_batches"], row["pending_batches"], row["lost_batches"])
        assert known
        assert row["numbered_batches"] == row["stored_batches"] + row["pending_batches"] + row["lost_batches"]
        assert row["lost_batches"] == 0


def stored_twice():
    seen = [
        (row["assignment_id"], row["source"], row["end_unix_ms"])
        for row in kube.rows("get", "windows", "--since", "10m", "--probe", "tcp_rr")
    ]
    return len(seen) - len(set(seen))


def under_way():
    return any(run["state"] == "running" and run["leases_ended"] for run in kube.rows("get", "runs"))


def test_an_agents_pod_is_deleted(deployed):
    kube.until("the mesh is whole", whole)
    victim = kube.pod_on(kube.nodes()[0], "agent")
    kube.kubectl("delete", "pod", victim, "--wait=true")
    kube.until("a new agent is Ready", kube.pods_ready)
    kube.until("the mesh is whole again", whole, WHOLE_S)
    accounts_agree()
    assert stored_twice() == 0


def test_the_collectors_pod_is_deleted_in_the_middle_of_a_run(deployed, tmp_path):
    kube.until("the mesh is whole", whole)
    command = [str(Path(sys.executable).with_name("cvmprobe")), "run", "quick", "-f", str(tmp_path / "cut.zip")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        kube.until("a lease of the run has ended", under_way)
        kube.kubectl("delete", "pod", "cvmprobe-collector-0", "--grace-period=0", "--force")
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(90)
        run.terminate()
    kube.until("a new collector is Ready", kube.pods_ready)
    kube.until("the mesh is whole again", whole, WHOLE_S)
    assert next(iter(kube.rows("get", "runs")))["state"] in ("interrupted", "cancelled")
    accounts_agree()
    assert stored_twice() == 0


def test_a_node_is_cut_off_for_a_minute(deployed, node_exec):
    kube.until("the mesh is whole", whole)
    home = kube.get("pod", "cvmprobe-collector-0")["spec"]["nodeName"]
    away = next(node for node in kube.nodes() if node != home)
    node_exec("cp", "ip", "link", "set", away, "down")
    try:
        kube.until("its agent is missed", lambda: f"{away}/pod" not in attached(), 60)
        time.sleep(40)  # how long it is away is the subject of the test
    finally:
        node_exec("cp", "ip", "link", "set", away, "up")
    kube.until("the mesh is whole again", whole, WHOLE_S + 30)
    kube.until("what was spooled meanwhile has arrived", lambda: accounts_agree() or True, WHOLE_S)
    assert stored_twice() == 0


PROGRAMS = "for p in /proc/[0-9]*; do echo ${p#/proc/} $(cat $p/comm); done"


def test_the_api_server_is_away_for_a_minute(deployed, node_exec):
    kube.until("the mesh is whole", whole)
    before = time.time_ns() // 1_000_000
    programs = [line.split() for line in node_exec("cp", "sh", "-c", PROGRAMS).splitlines()]
    pids = [pid for pid, *name in programs if name == ["kube-apiserver"]]
    assert pids
    node_exec("cp", "kill", "-STOP", *pids)
    try:
        time.sleep(60)  # how long it is away is the subject of the test
    finally:
        node_exec("cp", "kill", "-CONT", *pids)
    kube.until("the mesh is whole again", whole, WHOLE_S)
    accounts_agree()
    after = time.time_ns() // 1_000_000
    seen = kube.rows("get", "windows", "--since", "5m", "--probe", "tcp_rr", "--path", "inter_node")
    during = {row["source"] for row in seen if before + 15_000 < row["end_unix_ms"] < after - 15_000}
    assert during == {f"{node}/pod" for node in kube.nodes()}, "light probes do not need the API server"


def test_a_new_start_attaches_while_its_old_stream_is_half_open(deployed, node_exec):
    kube.until("the mesh is whole", whole)
    node = kube.nodes()[0]
    victim = kube.pod_on(node, "agent")
    pod = kube.get("pod", victim)
    old = attached()[f"{node}/pod"]["start_id"]
    table = "inet cvmprobe-test"
    rules = (
        f"add table {table}; add chain {table} c {{ type filter hook forward priority 0; }};"
        f"add rule {table} c ip saddr {pod['status']['podIP']} drop"
    )
    node_exec(node, "nft", rules)  # its farewell never arrives
    try:
        kube.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        kube.until("a new start is attached", lambda: attached().get(f"{node}/pod", {}).get("start_id", old) != old, 60)
        kube.until("the mesh is whole again", whole, WHOLE_S)
    finally:
        node_exec(node, "nft", "delete", "table", "inet", "cvmprobe-test")
    accounts_agree()
    assert stored_twice() == 0
