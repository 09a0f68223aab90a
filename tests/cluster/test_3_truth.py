"""A known truth through the whole cluster: what a token bucket on a node's uplink lets pass is what is reported."""

import json

import pytest
from tests.cluster import kube

RATE_MBIT = 200
HEADERS = 14 + 20 + 32  # Ethernet, as the bucket counts; IP; TCP with time stamps


def throughput(file):
    """Receiver's rate in Mbit/s by (source, target, path)."""
    shown = json.loads(kube.cvmprobe("snapshot", "show", str(file), "-o", "json").stdout)
    return {
        (row["source"], row["target"], row["path"]): row["rate_per_s"] * 8e-6
        for row in shown["summaries"]
        if row["probe"] == "tcp_stream" and row["metric"] == "receiver_bytes"
    }


def test_a_bucket_on_the_uplink_is_what_inter_node_reports(deployed, node_exec, tmp_path):
    slow, other, *_ = kube.nodes()
    mtu = int(json.loads(node_exec(slow, "ip", "-j", "link", "show", "eth0"))[0]["mtu"])
    bucket = ("dev", "eth0", "root", "tbf", "rate", f"{RATE_MBIT}mbit", "burst", "64k", "latency", "40ms")
    node_exec(slow, "tc", "qdisc", "replace", *bucket)
    try:
        kube.cvmprobe("run", "quick", "-f", str(tmp_path / "shaped.snapshot.zip"))
    finally:
        node_exec(slow, "tc", "qdisc", "del", "dev", "eth0", "root")
    seen = throughput(tmp_path / "shaped.snapshot.zip")
    segment = mtu - 20 - 32
    truth = RATE_MBIT * segment / (segment + HEADERS)
    figure = seen[f"{slow}/pod", f"{other}/pod", "inter_node"]
    inside = seen[f"{slow}/pod", f"{slow}/peer", "intra_node"]
    print(f"\ninter_node {figure:.2f} Mbit/s, truth {truth:.2f} ({figure / truth - 1:+.2%}); intra_node {inside:.0f}")
    assert figure == pytest.approx(truth, rel=0.01)
    assert inside > 3 * RATE_MBIT
