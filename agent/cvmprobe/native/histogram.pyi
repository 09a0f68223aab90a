"""Owner of one histogram: records, copies, subtracts and reads it. Values are ns, schema 8."""

from array import array
from typing import final

SCHEMA: int
BUCKETS: int

def bucket_upper(index: int) -> int:
    """Largest integer that bucket ``index`` (0 to 9472) holds. Raises IndexError."""

@final
class Histogram:
    """Counts of values in ns, from 0 to beyond 2^37."""

    @property
    def zero(self) -> int: ...
    @property
    def overflow(self) -> int: ...
    @property
    def sum(self) -> int: ...
    @property
    def sum_squares(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def minimum(self) -> int | None: ...
    @property
    def maximum(self) -> int | None: ...
    def record(self, value: int) -> None:
        """Count one value, 0 to 2^64-1. Raises OverflowError outside."""

    def record_many(self, values: array[int] | memoryview) -> None:
        """Count every value of a contiguous buffer of u64 (``array("Q")``). Raises ValueError for others."""

    def add(self, other: Histogram) -> None:
        """Merge another histogram into this one; nothing is lost."""

    def copy(self) -> Histogram:
        """Return a histogram of its own that holds the same."""

    def minus(self, earlier: Histogram) -> Histogram:
        """Return what was recorded since ``earlier``, a copy from before. Raises ValueError if it holds more.

        The extremes are exact where they are new extremes of the whole, else at bucket resolution.
        """

    def sparse(self) -> tuple[list[int], list[int]]:
        """Return the indices of the buckets that hold something, ascending, and their counts."""
