"""From nothing to a snapshot, as a newcomer does it."""

import itertools
import time
import zipfile

import pytest
from tests.cluster import kube

PATHS = {"loopback", "intra_node", "inter_node", "service"}


def light_ways():
    """(from, to, path) of the light windows of the last minute."""
    found = kube.rows("get", "windows", "--since", "2m")
    return {(row["source"].split("/")[0], row["target"], row["path"]) for row in found if row["probe"] == "tcp_rr"}


def wanted_ways():
    nodes = kube.nodes()
    across = set(itertools.permutations(nodes, 2))
    return (
        {(a, f"{b}/pod", "inter_node") for a, b in across}
        | {(a, f"{b}/peer", "service") for a, b in across}
        | {(a, f"{a}/pod", "loopback") for a in nodes}
        | {(a, f"{a}/peer", "intra_node") for a in nodes}
    )


def test_every_pair_and_path_has_light_windows_within_a_minute(deployed):
    began = time.monotonic()
    kube.until("light windows of every ordered pair and path", lambda: wanted_ways() <= light_ways(), 60)
    print(f"\nall pods Ready after {deployed:.1f} s, every way seen {time.monotonic() - began:.1f} s later")


def test_a_run_ends_in_a_snapshot_with_every_node_and_path(deployed, tmp_path):
    file = tmp_path / "first.snapshot.zip"
    began = time.monotonic()
    done = kube.cvmprobe("run", "quick", "-f", str(file))
    took = time.monotonic() - began
    print(f"\n{done.stdout}\nrun quick on {len(kube.nodes())} nodes: {took:.0f} s")
    duckdb = pytest.importorskip("duckdb")
    with zipfile.ZipFile(file) as archive:
        archive.extract("windows.parquet", tmp_path)
    found = duckdb.sql(f"select distinct node, path from '{tmp_path}/windows.parquet'").fetchall()
    assert {node for node, _ in found} >= set(kube.nodes())
    assert {path for _, path in found} >= PATHS
    assert deployed + took < 300
