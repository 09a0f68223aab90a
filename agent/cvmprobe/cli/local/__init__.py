"""The embedded default: one collector and two agents as children of this process, on loopback."""

from cvmprobe.cli.local.cluster import LocalCluster, local_cluster

__all__ = ["LocalCluster", "local_cluster"]
