"""What an agent has to say: windows are numbered, spooled, and only then offered to the uplink.

    add ──► waiting (RAM) ──number──► spool on disk, or in memory while the disk refuses ──after──► uplink
    report, keep_samples, show ──► queues in RAM ──next_unnumbered──► uplink

While it is ``quiet`` nothing is numbered or offered but lease reports and one preview at a time.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from cvmprobe.errors import ProbeError
from cvmprobe.model.assignment import LeaseReport
from cvmprobe.model.delivery import Batch, Hello, Loss, Preview
from cvmprobe.model.window import SampleBlock, Window
from cvmprobe.node.spool import Row, Spool, SpoolError

__all__ = ["Outbox"]

_LOG: Final = logging.getLogger(__name__)
_BATCH_BYTES: Final = 256 << 10
_SAMPLES_PER_TURN: Final = 8 << 20  # bytes offered between two turns, so that windows are not kept waiting
_RETRY_S: Final = 60.0  # how long a disk that refused is left alone
_ROW_BYTES: Final = 16  # of a raw sample


class Outbox:
    """The spool and the queues of this start. Implements ``wire.uplink.Outbox``; for one event loop.

    ``pack`` and ``unpack`` turn a batch into bytes and back (ValueError: it cannot be read). No method raises
    for a disk: a batch that cannot be spooled there is held in memory, counted in ``held_in_memory``.
    """

    def __init__(
        self,
        path: Path,
        hello: Hello,
        *,
        pack: Callable[[Batch], bytes],
        unpack: Callable[[bytes], Batch],
        spool_bytes: int,
        memory_bytes: int,
        sample_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._hello = hello
        self._pack = pack
        self._unpack = unpack
        self._spool_bytes = spool_bytes
        self._sample_bytes = sample_bytes
        self._clock = clock
        self._memory = Spool(None, memory_bytes)
        self._disk: Spool | None = None
        self._on_disk: deque[int] = deque()  # numbers, whatever the disk says of itself
        self._retry_at = 0.0
        self._waiting: list[Window] = []
        self._reports: deque[LeaseReport] = deque()
        self._samples: deque[SampleBlock | LeaseReport] = deque()
        self._held_sample_bytes = 0
        self._allowance = _SAMPLES_PER_TURN
        self._preview: Preview | None = None
        self._given_up: deque[tuple[int, int, str]] = deque(maxlen=1_000)  # first, last, why
        self.wake: Callable[[], None] = lambda: None
        self.quiet = False
        self.last_seq = 0
        self.acked = 0
        self.lost = 0  # batches numbered, and given up before they were acknowledged
        self.held_in_memory = 0  # batches that went to memory because the disk refused, since the start
        self._open_disk()

    @property
    def pending(self) -> int:
        """Number of batches numbered, not lost, and not yet acknowledged."""
        return self._memory.pending + len(self._on_disk)

    def add(self, windows: Iterable[Window]) -> None:
        """Take windows to be numbered at the next turn."""
        self._waiting.extend(windows)

    def number(self) -> int:
        """Give numbers to all windows taken so far, and spool them; returns the last number given out."""
        waiting, self._waiting = self._waiting, []
        for windows in _cut(waiting):
            self._put(Batch(self.last_seq + 1, windows))
        if waiting:
            self.wake()
        return self.last_seq

    def turn(self) -> None:
        """Do what is due about once a second."""
        self._allowance = _SAMPLES_PER_TURN
        if self.quiet:
            return
        if self._clock() >= self._retry_at:
            self._forget_on_disk()
        self.number()
        if self._samples:
            self.wake()

    def report(self, report: LeaseReport, *, behind_samples: bool = False) -> None:
        """Tell how far a lease is; ``behind_samples`` only after the raw samples taken before."""
        (self._samples if behind_samples else self._reports).append(report)
        self.wake()

    def keep_samples(self, blocks: Iterable[SampleBlock]) -> None:
        """Hold raw samples until they can be sent; what finds no room is counted as lost in its block."""
        for block in blocks:
            size = len(block.rows)
            if self._held_sample_bytes + size > self._sample_bytes:
                _LOG.warning("raw samples shed assignment=%s bytes=%d", block.instance.assignment_id, size)
                self._samples.append(replace(block, rows=b"", lost=block.lost + size // _ROW_BYTES))
            else:
                self._held_sample_bytes += size
                self._samples.append(block)

    def show(self, windows: tuple[Window, ...]) -> None:
        """Offer a live look; it replaces the one nobody has taken yet."""
        self._preview = Preview(windows)
        self.wake()

    def after(self, seq: int) -> Batch | Loss | None:
        """Give the next numbered thing after ``seq``; None when there is none yet."""
        if self.quiet or seq >= self.last_seq:
            return None
        rows = [row for row in (self._read_disk(seq), self._memory.after(seq)) if row is not None]
        row = min(rows, key=lambda found: found.seq, default=None)
        following = self.last_seq + 1 if row is None else row.seq
        if row is None or following > seq + 1:
            return Loss(seq + 1, following - 1, self._why(seq + 1, following - 1))
        try:
            return self._unpack(row.body)
        except (ProbeError, ValueError) as error:
            return Loss(row.seq, row.seq, f"the batch cannot be read back: {error}")

    def forget(self, seq: int) -> None:
        """All numbered things up to ``seq`` are committed."""
        self.acked = max(self.acked, min(seq, self.last_seq))
        while self._given_up and self._given_up[0][1] <= self.acked:
            self._given_up.popleft()
        while self._on_disk and self._on_disk[0] <= self.acked:
            self._on_disk.popleft()
        self._memory.forget(self.acked)
        self._forget_on_disk()

    def next_unnumbered(self) -> LeaseReport | SampleBlock | Preview | None:
        """Take the next of what goes beside the numbered things; None when there is none."""
        if self._reports:
            return self._reports.popleft()
        if self._preview is not None:
            preview, self._preview = self._preview, None
            return preview
        if self.quiet or not self._samples or self._allowance <= 0:
            return None
        taken = self._samples.popleft()
        if isinstance(taken, SampleBlock):
            self._held_sample_bytes -= len(taken.rows)
            self._allowance -= len(taken.rows)
        return taken

    def end(self) -> None:
        """Give out no further number: what waits is spooled, and the spool says that it is whole."""
        self.quiet = False
        self.number()
        if self._disk is not None and self._memory.pending == 0 and self._disk.last_seq == self.last_seq:
            with suppress(SpoolError):
                self._disk.end()

    def close(self, *, delivered: bool) -> None:
        """Let go of the spool; its file goes too when all of it was ``delivered``."""
        self._memory.close()
        if self._disk is None:
            return
        if delivered:
            self._disk.remove()
        else:
            self._disk.close()

    def _put(self, batch: Batch) -> None:
        self.last_seq = batch.seq
        try:
            row = Row(batch.seq, self._pack(batch))
        except (ProbeError, ValueError) as error:
            self._give_up([batch.seq], f"the batch could not be written down: {error}")
            return
        if not self._put_on_disk(row):
            self.held_in_memory += 1
            self._give_up(self._memory.put(row), "the disk refused, and the spool in memory was full")

    def _put_on_disk(self, row: Row) -> bool:
        if self._clock() < self._retry_at:
            return False
        if self._disk is None:
            self._open_disk()
        if self._disk is None:
            return False
        try:
            dropped = self._disk.put(row)
        except SpoolError as error:
            self._disk_refused(error)
            return False
        self._on_disk.append(row.seq)
        dropped = [number for number in dropped if number > self.acked]  # the others were only not yet deleted
        for _ in dropped:
            self._on_disk.popleft()
        self._give_up(dropped, f"the spool on disk was full at {self._spool_bytes} bytes")
        return True

    def _forget_on_disk(self) -> None:
        """Make room there; a full disk may refuse even that, until another time."""
        if self._disk is not None and self._disk.acked < self.acked:
            try:
                self._disk.forget(self.acked)
            except SpoolError as error:
                self._disk_refused(error)

    def _read_disk(self, seq: int) -> Row | None:
        try:
            return None if self._disk is None else self._disk.after(seq)
        except SpoolError as error:
            self._disk_refused(SpoolError(str(error), damaged=True))
            return None

    def _open_disk(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._disk = Spool(self._path, self._spool_bytes)
            self._disk.introduce(self._hello)
        except OSError as error:
            self._disk_refused(SpoolError(f"cannot make {self._path.parent}: {error.strerror}"))
        except SpoolError as error:
            self._disk_refused(error)

    def _disk_refused(self, error: SpoolError) -> None:
        """Write to memory for a while. What lies on the disk is still read from there, unless it is damaged."""
        _LOG.warning("spooling in memory: %s", error)
        self._retry_at = self._clock() + _RETRY_S
        if self._disk is None or not error.damaged:
            return
        disk, self._disk = self._disk, None
        disk.quarantine()
        self._give_up(list(self._on_disk), f"the spool file was damaged: {error}")
        self._on_disk.clear()

    def _give_up(self, numbers: list[int], reason: str) -> None:
        """Count batches as lost, and keep the reason for the collector."""
        if not numbers:
            return
        first, last = numbers[0], numbers[-1]
        _LOG.warning("batches given up count=%d first=%d last=%d: %s", len(numbers), first, last, reason)
        self.lost += len(numbers)
        if self._given_up and self._given_up[-1][1:] == (first - 1, reason):
            first, _, _ = self._given_up.pop()
        self._given_up.append((first, last, reason))

    def _why(self, first: int, last: int) -> str:
        reasons = [reason for low, high, reason in self._given_up if low <= last and high >= first]
        if first <= self.acked:
            reasons.insert(0, f"up to batch {self.acked} all was acknowledged before, and forgotten")
        return "; ".join(dict.fromkeys(reasons)) or "the spool file could not be read back"


def _cut(windows: list[Window]) -> Iterable[tuple[Window, ...]]:
    """Cut windows into batches of about 256 KiB, by a generous guess of what each takes."""
    batch: list[Window] = []
    size = 0
    for window in windows:
        guess = 1_024 + sum(16 + 6 * len(histogram.buckets) for histogram in window.histograms.values())
        if batch and size + guess > _BATCH_BYTES:
            yield tuple(batch)
            batch, size = [], 0
        batch.append(window)
        size += guess
    if batch:
        yield tuple(batch)
