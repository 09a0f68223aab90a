"""The one writer of the store: gathers what arrives, commits it in groups, and only then says it is stored.

    batches, acts ──► gathered for 300 ms or 10 000 rows ──► one transaction per stream ──► stored(stream, seq) ──► Ack

What the store refuses (a full disk) is kept and tried again. A stream of which too much waits has to wait
itself, and the agent behind it; the other streams go on. Raw samples alone are given up, and counted.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import Batch, StreamKey
from cvmprobe.model.window import SampleBlock
from cvmprobe.store import Store

__all__ = ["Act", "Writer"]

_LOG = logging.getLogger(__name__)
_GATHER_S = 0.3
_RETRY_S = 1.0
_GROUP_ROWS = 10_000
_BACKLOG_ROWS = 5_000  # of one stream
_ROW_BYTES = 8 << 10  # more than any common row takes in memory

_T = TypeVar("_T")

Act = Callable[[Store], object]
"""A write that is no batch; must be safe to repeat."""


@dataclass(slots=True)
class _Work:
    """What one group holds. ``None`` is the collector itself."""

    batches: dict[StreamKey, list[Batch]] = field(default_factory=dict)
    acts: dict[StreamKey | None, list[Act]] = field(default_factory=dict)
    samples: list[tuple[StreamKey, SampleBlock]] = field(default_factory=list)
    rows: int = 0


@dataclass(slots=True)
class _Outcome:
    """What became of a group: how far each stream now is, what is left to do, and why."""

    stored: dict[StreamKey, int] = field(default_factory=dict)
    left: _Work = field(default_factory=_Work)
    errors: dict[StreamKey | None, StoreError] = field(default_factory=dict)
    samples_lost: int = 0


class Writer:
    """Writes in one thread of its own; to be used from one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscribers: list[Callable[[StreamKey, int], None]] = []
        self._executor = ThreadPoolExecutor(1, "store-writer")
        self._work = _Work()
        self._backlog: Counter[StreamKey] = Counter()
        self._waiting: list[tuple[StreamKey | None, asyncio.Future[None]]] = []
        self._something = asyncio.Event()
        self._at_once = asyncio.Event()
        self._written = asyncio.Event()
        self.samples_lost = 0

    def subscribe(self, stored: Callable[[StreamKey, int], None]) -> None:
        """Have ``stored`` called in the event loop after each commit: all of the stream up to that number is in."""
        self._subscribers.append(stored)

    async def batch(self, stream: StreamKey, batch: Batch) -> None:
        """Take a batch; waits while too much of the stream is waiting to be written."""
        await self._room(stream)
        self._work.batches.setdefault(stream, []).append(batch)
        self._backlog[stream] += _rows(batch)
        self._count(_rows(batch))

    async def samples(self, stream: StreamKey, block: SampleBlock) -> None:
        """Take raw operations and wait until they are stored, or given up and counted: they are sent only once."""
        self._work.samples.append((stream, block))
        with suppress(StoreError):  # of something else
            await self.flush(stream)

    def act(self, act: Act, stream: StreamKey | None = None) -> None:
        """Take another write; those of one stream keep their order, and come after its batches."""
        self._work.acts.setdefault(stream, []).append(act)
        self._count(1)

    async def flush(self, stream: StreamKey | None = None) -> None:
        """Wait until all that was given of ``stream`` is written. Raises StoreError when it cannot be now."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append((stream, waiter))
        self._something.set()
        self._at_once.set()
        await waiter

    async def read(self, read: Callable[[Store], _T]) -> _T:
        """Read something short in the writer's thread, after what it is at."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, read, self._store)

    async def run(self) -> None:
        """Write group after group until cancelled."""
        while True:
            await self._something.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._at_once.wait(), _GATHER_S)
            if not await self._write_group():
                await asyncio.sleep(_RETRY_S)

    async def close(self) -> bool:
        """Write what is left, once, after ``run`` was cancelled; gives whether all is written."""
        written = await self._write_group()
        self._executor.shutdown()
        return written

    async def _room(self, stream: StreamKey) -> None:
        while self._backlog[stream] >= _BACKLOG_ROWS:
            await self._written.wait()

    def _count(self, rows: int) -> None:
        self._work.rows += rows
        self._something.set()
        if self._work.rows >= _GROUP_ROWS:
            self._at_once.set()

    async def _write_group(self) -> bool:
        work, self._work = self._work, _Work()
        waiting, self._waiting = self._waiting, []
        self._something.clear()
        self._at_once.clear()
        writing = asyncio.get_running_loop().run_in_executor(self._executor, _write, self._store, work)
        try:
            await asyncio.shield(writing)
        finally:  # when cancelled too: the thread is at it, and its outcome must not get lost
            outcome = await writing
            self._settle(work, outcome, waiting)
        return not outcome.errors

    def _settle(
        self, work: _Work, outcome: _Outcome, waiting: Sequence[tuple[StreamKey | None, asyncio.Future[None]]]
    ) -> None:
        self._put_back(work, outcome.left)
        if outcome.samples_lost:
            self.samples_lost += outcome.samples_lost
            _LOG.error("%d blocks of raw samples could not be stored and are lost", outcome.samples_lost)
        for stream, error in outcome.errors.items():
            _LOG.error("what %s sent cannot be stored yet: %s", stream.endpoint if stream else "the collector", error)
        for stored_stream, seq in outcome.stored.items():
            for stored in self._subscribers:
                stored(stored_stream, seq)
        for stream, waiter in waiting:
            error_of_stream = outcome.errors.get(stream)
            if waiter.cancelled():
                continue
            if error_of_stream is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error_of_stream)

    def _put_back(self, work: _Work, left: _Work) -> None:
        for stream, batches in work.batches.items():
            if stream not in left.batches:
                self._backlog[stream] -= sum(map(_rows, batches))
        for stream, batches in left.batches.items():
            self._work.batches[stream] = batches + self._work.batches.get(stream, [])
        for actor, acts in left.acts.items():
            self._work.acts[actor] = acts + self._work.acts.get(actor, [])
        if left.batches or left.acts:
            self._something.set()
        written, self._written = self._written, asyncio.Event()
        written.set()


def _rows(batch: Batch) -> int:
    """Count a batch's rows, and what is uncommonly large as several: what waits is bounded by their number."""
    return sum(len(one.counters) + len(one.histograms) + one.weight // _ROW_BYTES for one in batch.windows) + 1


def _write(store: Store, work: _Work) -> _Outcome:
    """Write one group, in the writer's thread. A stream that is refused does not hold up the others."""
    outcome = _Outcome()
    for stream, batches in work.batches.items():
        try:
            store.commit(stream, batches)
        except StoreError as error:
            outcome.errors[stream] = error
            outcome.left.batches[stream] = batches
    for actor, acts in work.acts.items():
        _perform(store, actor, acts, outcome)
    for stream, block in work.samples:
        try:
            store.add_samples(stream, block)
        except StoreError:
            outcome.samples_lost += 1
    for moved in {*work.batches, *work.acts}:
        if moved is not None and moved not in outcome.errors:
            try:
                outcome.stored[moved] = store.stored_seq(moved)
            except StoreError as error:
                outcome.errors[moved] = error
    return outcome


def _perform(store: Store, actor: StreamKey | None, acts: list[Act], outcome: _Outcome) -> None:
    for number, act in enumerate(acts):
        try:
            act(store)
        except StoreError as error:
            outcome.errors[actor] = error
            outcome.left.acts[actor] = acts[number:]
            return
