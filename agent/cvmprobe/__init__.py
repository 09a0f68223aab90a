"""cvmprobe: what a cluster of confidential VMs costs, measured on every node."""

__version__ = "0.1.0"
