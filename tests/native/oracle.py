"""The histogram again, slow and plain: integers only, no table, no bit trick."""

from collections import Counter
from collections.abc import Iterable

LARGEST = 2**37


def index(value: int, schema: int = 8) -> int:
    """Smallest i with value <= 2^(i / 2^schema), that is value^(2^schema) <= 2^i, in exact integers."""
    power = value ** (2**schema)
    exponent = power.bit_length() - 1
    return exponent if power == 1 << exponent else exponent + 1


def upper(bucket: int, schema: int = 8) -> int:
    """Largest integer v with v^(2^schema) <= 2^bucket, by bisection."""
    low, high = 1, 1 << (bucket // 2**schema + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if index(middle, schema) <= bucket:
            low = middle
        else:
            high = middle
    return low


def buckets(values: Iterable[int], schema: int = 8) -> dict[int, int]:
    """Count the values in [1, 2^37] by bucket."""
    return dict(Counter(index(value, schema) for value in values if 1 <= value <= LARGEST))
