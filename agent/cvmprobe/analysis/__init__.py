"""Pure functions from windows to figures; nothing here reads a clock, a file or a setting."""

from cvmprobe.analysis.distribution import QUANTILES, downscale, mean, merge, percentile, quantiles
from cvmprobe.analysis.summary import SPOILING, headlines, summarize

__all__ = [
    "QUANTILES",
    "SPOILING",
    "downscale",
    "headlines",
    "mean",
    "merge",
    "percentile",
    "quantiles",
    "summarize",
]
