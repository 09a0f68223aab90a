"""What a run measures: suites as data (one TOML file each), made shorter by a scale."""

from cvmprobe.suites.load import load_suite, suite_names
from cvmprobe.suites.scale import scaled

__all__ = ["load_suite", "scaled", "suite_names"]
