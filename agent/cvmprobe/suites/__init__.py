"""What a run measures: suites as data (one TOML file each), made shorter by a scale, priced before they run."""

from cvmprobe.suites.cost import cost, lease_bytes, lease_seconds
from cvmprobe.suites.load import load_suite, suite_names
from cvmprobe.suites.scale import scaled

__all__ = ["cost", "lease_bytes", "lease_seconds", "load_suite", "scaled", "suite_names"]
