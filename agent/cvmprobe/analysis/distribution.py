"""Histograms: lossless merging, exact ranks, and the rule for which quantiles a count carries."""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

from cvmprobe.errors import UsageError
from cvmprobe.model.histogram import Histogram

__all__ = ["QUANTILES", "deviation", "downscale", "mean", "merge", "percentile", "quantiles"]

QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
BEYOND = 10  # values that must lie above a quantile before it is worth printing


def downscale(histogram: Histogram, schema: int) -> Histogram:
    """Return the histogram as if it had been recorded at a coarser schema; nothing is lost but resolution."""
    if schema > histogram.schema:
        raise UsageError(f"histogram schema: cannot refine {histogram.schema} to {schema}; ask for a lower one")
    shift = histogram.schema - schema
    buckets: Counter[int] = Counter()
    for index, count in histogram.buckets.items():
        buckets[(index - 1 >> shift) + 1] += count
    return _with_buckets([histogram], schema, buckets)


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """Return the distribution of all values together, at the coarsest schema among them; order does not matter."""
    parts = tuple(histograms)
    schema = min((part.schema for part in parts), default=Histogram().schema)
    buckets: Counter[int] = Counter()
    for part in parts:
        buckets.update(part.buckets if part.schema == schema else downscale(part, schema).buckets)
    return _with_buckets(parts, schema, buckets)


def _with_buckets(parts: Sequence[Histogram], schema: int, buckets: Counter[int]) -> Histogram:
    """Sum everything but the buckets, which are already at ``schema``."""
    return Histogram(
        schema=schema,
        buckets={index: buckets[index] for index in sorted(buckets)},
        zero=sum(part.zero for part in parts),
        overflow=sum(part.overflow for part in parts),
        sum=sum(part.sum for part in parts),
        sum_squares=sum(part.sum_squares for part in parts),
        minimum=min((part.minimum for part in parts if part.minimum is not None), default=None),
        maximum=max((part.maximum for part in parts if part.maximum is not None), default=None),
    )


def mean(histogram: Histogram) -> float | None:
    """Return the arithmetic mean, exact up to one rounding; None when empty."""
    return histogram.sum / histogram.count if histogram.count else None


def deviation(histogram: Histogram) -> float | None:
    """Return the standard deviation of the values as a sample, exact up to rounding.

    None below two values, and for squares that no values have, which only a broken peer sends.
    """
    n = histogram.count
    spread = n * histogram.sum_squares - histogram.sum**2
    return math.sqrt(Fraction(spread, n * (n - 1))) if n > 1 and spread >= 0 else None


def percentile(histogram: Histogram, q: float) -> float | None:
    """Return the value of nearest rank ``ceil(q * n)``, as the geometric midpoint of its bucket.

    None when the histogram is empty, or when that rank lies in the overflow: nobody can tell.
    """
    exact = Fraction(str(q))
    if not 0 <= exact <= 1:
        raise UsageError(f"quantile {q}: must be between 0 and 1")
    total = histogram.count
    if not total:
        return None
    rank = max(1, -(-(exact * total) // 1))
    if rank <= histogram.zero:
        return 0.0
    seen = histogram.zero
    for index in sorted(histogram.buckets):
        seen += histogram.buckets[index]
        if rank <= seen:
            return _midpoint(index, histogram.schema)
    return None


def _midpoint(index: int, schema: int) -> float | None:
    """Return the geometric middle of a bucket; None for one beyond all numbers, which only a broken peer fills."""
    exponent = (index - 0.5) / 2.0**schema
    return math.exp2(exponent) if exponent < sys.float_info.max_exp else None


def quantiles(histogram: Histogram, wanted: Iterable[float] = QUANTILES) -> dict[float, float]:
    """Return each wanted quantile that the count carries, n(1 - q) >= 10, and that does not lie in the overflow."""
    total = histogram.count
    carried = (q for q in wanted if total * (1 - Fraction(str(q))) >= BEYOND)
    return {q: value for q in carried if (value := percentile(histogram, q)) is not None}
