"""Pure functions from windows to figures; nothing here reads a clock, a file or a setting."""

from cvmprobe.analysis.distribution import QUANTILES, deviation, downscale, mean, merge, percentile, quantiles
from cvmprobe.analysis.student import half_width, student_t
from cvmprobe.analysis.summary import SPOILING, headlines, summarize

__all__ = [
    "QUANTILES",
    "SPOILING",
    "deviation",
    "downscale",
    "half_width",
    "headlines",
    "mean",
    "merge",
    "percentile",
    "quantiles",
    "student_t",
    "summarize",
]
