"""Pure functions from windows to figures; nothing here reads a clock, a file or a setting."""

from cvmprobe.analysis.compare import KEPT_WEIGHT, MIN_REPEATS, Comparison, Side, Verdict, compare
from cvmprobe.analysis.distribution import QUANTILES, deviation, downscale, mean, merge, percentile, quantiles
from cvmprobe.analysis.repeats import Kind, Quantity, Series, series
from cvmprobe.analysis.student import half_width, student_t
from cvmprobe.analysis.summary import SPOILING, headlines, summarize

__all__ = [
    "KEPT_WEIGHT",
    "MIN_REPEATS",
    "QUANTILES",
    "SPOILING",
    "Comparison",
    "Kind",
    "Quantity",
    "Series",
    "Side",
    "Verdict",
    "compare",
    "deviation",
    "downscale",
    "half_width",
    "headlines",
    "mean",
    "merge",
    "percentile",
    "quantiles",
    "series",
    "student_t",
    "summarize",
]
