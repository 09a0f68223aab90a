"""How far a mean of few values may be off: Student's t, exactly, without a table."""

import math
from functools import lru_cache

from cvmprobe.errors import UsageError

__all__ = ["half_width", "student_t"]

_ALIKE = 2_000  # degrees of freedom: from here on t is not told from the normal distribution
_HALVINGS = 60


def half_width(deviation: float, n: int) -> float:
    """Return the half of the 95 % confidence interval of a mean of ``n`` values with that standard deviation."""
    return student_t(n - 1) * deviation / math.sqrt(n)


@lru_cache
def student_t(freedom: int, level: float = 0.95) -> float:
    """Return t so that a variable of Student's distribution lies within ±t with probability ``level``."""
    if freedom < 1 or not 0 < level < 1:
        raise UsageError(f"Student's t: {freedom} degrees of freedom at {level}: give at least 1, and a level below 1")
    freedom = min(freedom, _ALIKE)
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Return the probability of ±sqrt(freedom)·tan(angle): the finite sums of Abramowitz and Stegun, 26.7.3 and 4."""
    odd = freedom % 2
    cosine, sine = math.cos(angle), math.sin(angle)
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
