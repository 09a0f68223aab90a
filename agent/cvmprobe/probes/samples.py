"""Raw operations of one execution, kept in bounded memory until somebody takes them."""

from collections import deque
from dataclasses import replace

from cvmprobe.model.window import ClockPair, Instance, SampleBlock

__all__ = ["BLOCK_BYTES", "KEPT_BYTES", "ROW_BYTES", "SampleShelf"]

ROW_BYTES = 16
BLOCK_BYTES = 256 * 1024
KEPT_BYTES = 32 * 1024 * 1024


class SampleShelf:
    """Blocks of at most ``BLOCK_BYTES``. Past ``kept_bytes`` the oldest go, and the next block counts them as lost."""

    def __init__(self, instance: Instance, kept_bytes: int = KEPT_BYTES) -> None:
        self._instance = instance
        self._kept_bytes = kept_bytes
        self._blocks: deque[SampleBlock] = deque()
        self._bytes = 0

    def add(self, clock: ClockPair, rows: bytes, lost: int) -> None:
        """Keep rows as they came from an engine, after ``lost`` others that had been overwritten."""
        pieces = [rows[start : start + BLOCK_BYTES] for start in range(0, len(rows), BLOCK_BYTES)]
        if lost and not pieces:
            pieces = [b""]
        for piece in pieces:
            self._blocks.append(SampleBlock(self._instance, clock, piece, lost))
            self._bytes += len(piece)
            lost = 0
        while self._bytes > self._kept_bytes and len(self._blocks) > 1:
            self._shed_oldest()

    def take(self) -> tuple[SampleBlock, ...]:
        """Hand over all blocks, oldest first, and forget them."""
        blocks = tuple(self._blocks)
        self._blocks.clear()
        self._bytes = 0
        return blocks

    def _shed_oldest(self) -> None:
        oldest = self._blocks.popleft()
        self._bytes -= len(oldest.rows)
        lost = oldest.lost + len(oldest.rows) // ROW_BYTES
        self._blocks[0] = replace(self._blocks[0], lost=self._blocks[0].lost + lost)
