"""What one recorded operation costs here, part by part."""

from collections.abc import Mapping

PARTS: Mapping[str, int]

def cost_ns(part: str = "all", operations: int = 10_000) -> float:
    """Return ns per operation of one of ``PARTS``, the bare loop included. Raises KeyError, ValueError."""
