"""What people ask a collector for: a run they are told of is kept, and a snapshot leaves nothing behind."""

import asyncio
import threading
from contextlib import suppress

import pytest
from tests.unit.ingesting import Collector, quick_retries, until

from cvmprobe.errors import StoreError
from cvmprobe.model.query import SnapshotFormat, TimeRange
from cvmprobe.model.run import Cost, Run, RunState

__all__ = ["quick_retries"]


class SlowExport:
    """Writes a snapshot only when told to, as a large store does."""

    def __init__(self, monkeypatch):
        self.begun, self.go_on = threading.Event(), threading.Event()
        monkeypatch.setattr("cvmprobe.collector.query.write_snapshot", self)

    def __call__(self, _store, path, **_asked):
        self.begun.set()
        assert self.go_on.wait(20)
        path.write_bytes(b"PK")


def export(query):
    return query.export_snapshot(None, TimeRange(), with_samples=False, snapshot_format=SnapshotFormat.ZIP)


async def whole(chunks):
    return b"".join([chunk async for chunk in chunks])


async def test_a_caller_that_leaves_its_snapshot_leaves_nothing(tmp_path, monkeypatch):
    slow = SlowExport(monkeypatch)
    async with Collector().running() as collector:
        query = collector.query(scratch=tmp_path)
        asking, waiting = (asyncio.create_task(whole(export(query))) for _ in range(2))
        await until(slow.begun.is_set)
        await until(lambda: len(list(tmp_path.iterdir())) == 2)
        for task in (asking, waiting):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert len(list(tmp_path.iterdir())) == 1, "one waited for its turn, and the other is at work in its directory"
        slow.go_on.set()
        await until(lambda: not list(tmp_path.iterdir()))
        assert await whole(export(query)) == b"PK"
        assert not list(tmp_path.iterdir())


async def test_no_room_for_a_snapshot_is_one_clear_line(tmp_path):
    async with Collector().running() as collector:
        with pytest.raises(StoreError, match=r"no snapshot can be made in .*: No such file or directory; make room"):
            await whole(export(collector.query(scratch=tmp_path / "gone")))


class Conductor:
    """Starts a run, and has it kept as the collector's daemon does."""

    def __init__(self, writer):
        self.writer = writer

    def start_run(self, suite, scale, repeats):
        run = Run("r", suite, scale, RunState.RUNNING, 1, None, Cost(1, 1, 1), repeats, ())
        self.writer.act(lambda store: store.put_run(run))
        return run


async def test_a_run_is_kept_before_anybody_is_told_of_it(tmp_path):
    async with Collector().running() as collector:
        run = await collector.query(Conductor(collector.writer), tmp_path).start_run("quick", 1.0, 1)
        assert collector.store.runs() == (run,)
