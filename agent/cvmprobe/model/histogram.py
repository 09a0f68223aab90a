"""A distribution as counts in base-2 exponential buckets: what is stored, sent and merged."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Histogram"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values (nanoseconds unless the metric's name says otherwise).

    Bucket ``i`` of schema ``s`` holds the values in (2^((i-1)/2^s), 2^(i/2^s)], as in a Prometheus
    native histogram. Engines record at schema 8 from 1 ns to 2^37 ns; larger values are in
    ``overflow``, zeros in ``zero``. The count is not kept: it is the sum of the parts.
    ``minimum`` and ``maximum`` are exact or, for a single window, at bucket resolution; None when empty.
    """

    schema: int = 8
    buckets: Mapping[int, int] = field(default_factory=dict)
    zero: int = 0
    overflow: int = 0
    sum: int = 0
    sum_squares: int = 0
    minimum: int | None = None
    maximum: int | None = None

    @property
    def count(self) -> int:
        """Number of values recorded."""
        return self.zero + sum(self.buckets.values()) + self.overflow
