"""Windows, samples, runs and gaps at rest: the one interface programs see, whatever engine is behind it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cvmprobe.model.delivery import Batch, Gap, Hello, StreamKey
from cvmprobe.model.query import Selection, TimeRange
from cvmprobe.model.run import Run
from cvmprobe.model.window import SampleBlock, Window

__all__ = ["EVERYTHING", "FOREVER", "Account", "Store"]

EVERYTHING = Selection()
FOREVER = TimeRange()


@dataclass(frozen=True, slots=True)
class Account:
    """The bookkeeping of one stream, in batches: numbered = stored + pending + lost.

    ``numbered`` is known once the agent said Bye; until then it and ``pending`` are None.
    ``lost`` counts the declared gaps and is None while one of them is open.
    """

    stored_seq: int
    numbered: int | None
    stored: int
    lost: int | None

    @property
    def pending(self) -> int | None:
        """Batches numbered by the agent that are neither here nor declared lost; None: unknown."""
        if self.numbered is None or self.lost is None:
            return None
        return self.numbered - self.stored - self.lost


class Store(Protocol):
    """Where measured facts rest. Every method blocks and may be called from any thread; StoreError when it fails.

    What a method has written when it returns survives a kill of the process. After a StoreError
    nothing of that call is stored, and the call may be repeated.
    """

    def commit(self, stream: StreamKey, batches: Sequence[Batch]) -> None:
        """Store batches in one transaction. A (stream, seq) that is here already is dropped.

        A batch that was declared lost and comes after all is stored, and its gap shrinks. StoreError for a
        window of another endpoint than the stream's.
        """

    def stored_seq(self, stream: StreamKey) -> int:
        """Highest seq up to which every batch is stored or declared lost: what may be acked; 0: none."""

    def account(self, stream: StreamKey) -> Account:
        """Bookkeeping of the stream; all zero for one never seen."""

    def put_node(self, stream: StreamKey, hello: Hello) -> None:
        """Keep how the agent of this stream introduced itself; replaces what it said before."""

    def nodes(self) -> Mapping[StreamKey, Hello]:
        """Every stream whose agent introduced itself, the latest start last."""

    def open_gap(self, gap: Gap) -> None:
        """Record batches as missing: a declared loss, or (``last_seq`` None) a stream that ended without Bye.

        What of it is stored is left out, so declaring twice, or too much, does no harm.
        """

    def close_gap(self, stream: StreamKey) -> None:
        """Take back the stream's open gap: its agent is here again and goes on."""

    def end_stream(self, stream: StreamKey, last_seq: int) -> None:
        """Keep the last number the agent gave out, from its Bye, and take back the open gap."""

    def gaps(self) -> tuple[Gap, ...]:
        """All that is missing, in order of stream and seq."""

    def windows(self, selection: Selection = EVERYTHING, time_range: TimeRange = FOREVER) -> Iterator[Window]:
        """Yield stored windows that end within the range, in order of their end; equal to what was committed."""

    def add_samples(self, stream: StreamKey, block: SampleBlock) -> None:
        """Store raw operations. They carry no number: a block given twice is stored twice."""

    def put_run(self, run: Run) -> None:
        """Keep a run as it stands; replaces what was kept under its id."""

    def runs(self) -> tuple[Run, ...]:
        """All runs, the latest first."""

    def prune(self, before_unix_ms: int, max_bytes: int) -> int:
        """Delete windows and samples that ended before that time, then the oldest until the store fits.

        Raw samples go before windows; runs, gaps and nodes stay. Space comes back in groups of rows, so more may
        go than had to. Returns the number of rows deleted.
        """

    def export_windows(self, path: Path, selection: Selection, time_range: TimeRange) -> int:
        """Write ``windows.parquet`` to ``path``: one row per window and metric. Returns the number of rows."""

    def export_samples(self, path: Path, selection: Selection, time_range: TimeRange) -> tuple[int, int]:
        """Write ``samples.parquet`` to ``path``: one row per operation, of the blocks whose clocks were read in range.

        Returns the number of rows, and of samples that were lost on the way.
        """

    def close(self) -> None:
        """Close the files; twice is fine."""
