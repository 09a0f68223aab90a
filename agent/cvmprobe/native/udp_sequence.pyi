"""Which datagrams of a numbered flow have arrived, each counted once, and how unevenly they came."""

from typing import final

KNOWN: int

@final
class Arrivals:
    """The tracker of one flow. A number ``KNOWN`` or more behind the foremost can no longer be told: it is stale."""

    def take(self, number: int) -> int:
        """Count one datagram under this number; return how many numbers it jumped over."""

    def time(self, sent_ns: int, received_ns: int) -> None:
        """Take the time of one arrival, ns modulo 2^32 on either clock."""

    @property
    def counts(self) -> dict[str, int]:
        """What arrived so far: ``next``, ``unique``, ``duplicates``, ``reordered``, ``reorder_extent``, ``stale``.

        ``jitter_ns`` is the interarrival jitter as RFC 3550 A.8 computes it.
        """
