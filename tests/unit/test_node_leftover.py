"""What a dead start left is delivered under its own name, and what cannot be is declared or set aside."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from cvmprobe.model.delivery import Batch, Bye, Hello, Loss
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.node.leftover import Leftover, deliver, leftovers
from cvmprobe.node.spool import DAMAGED, Row, Spool

MANY = 1 << 24
SOURCE = Endpoint("a", Role.POD)
HELLO = Hello("1", SOURCE, "b", "s", 7, 8, Environment((), TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ())))


def unpack(body: bytes) -> Batch:
    if body == b"odd":
        raise ValueError("odd")
    return Batch(int(body), ())


def leave(directory: Path, start: str, seqs: list[int], *, acked: int = 0, ended: bool = False) -> Path:
    path = directory / f"{start}.sqlite"
    spool = Spool(path, MANY)
    spool.introduce(replace(HELLO, start_id=start))
    for seq in seqs:
        spool.put(Row(seq, b"%d" % seq))
    if acked:
        spool.forget(acked)
    if ended:
        spool.end()
    spool.close()
    return path


def found(directory: Path, max_bytes: int = MANY) -> list[Leftover]:
    return list(leftovers(directory, "own", max_bytes, unpack))


class Collector:
    """An attachment to a collector that acknowledges at once, up to ``limit``."""

    def __init__(self, leftover: Leftover, limit: int = 1_000, stored: int = 0) -> None:
        self.leftover = leftover
        self.limit = limit
        self.seq = stored
        self.got: list[Batch | Loss | Bye] = []
        self.bye: Bye | None = None
        self.running = False

    def finish(self, bye: Bye) -> None:
        self.bye = bye

    async def run(self) -> None:
        self.running = True
        try:
            self.leftover.forget(self.seq)
            while self.seq < self.limit and (item := self.leftover.after(self.seq)) is not None:
                self.got.append(item)
                self.seq = item.seq if isinstance(item, Batch) else item.last_seq
                self.leftover.forget(self.seq)
                await asyncio.sleep(0)
            if self.bye is None or self.bye.last_seq > self.seq:
                await asyncio.Event().wait()
            self.got.append(self.bye)
        finally:
            self.running = False


async def test_a_killed_start_is_delivered_without_a_bye(tmp_path: Path):
    leave(tmp_path, "dead", [1, 2, 3], acked=1)
    (leftover,) = found(tmp_path)
    assert (leftover.hello.start_id, leftover.hello.responder_port, leftover.hello.probe_service_port) == ("dead", 0, 0)
    collector = Collector(leftover, stored=1)
    assert await deliver(leftover, collector, 5)
    assert collector.got == [Batch(2, ()), Batch(3, ())]
    assert not collector.running
    leftover.remove()
    assert found(tmp_path) == []


async def test_an_ended_start_says_its_bye_even_when_all_else_was_acked(tmp_path: Path):
    leave(tmp_path, "ended", [1, 2], acked=2, ended=True)
    (leftover,) = found(tmp_path)
    collector = Collector(leftover, stored=2)
    assert await deliver(leftover, collector, 5)
    assert collector.got == [Bye(2)]
    leftover.close()


async def test_holes_and_unreadable_batches_are_declared(tmp_path: Path):
    path = leave(tmp_path, "dead", [1, 4])
    spool = Spool(path, MANY)
    spool.put(Row(5, b"odd"))
    spool.close()
    (leftover,) = found(tmp_path)
    collector = Collector(leftover)
    assert await deliver(leftover, collector, 5)
    assert collector.got == [
        Batch(1, ()),
        Loss(2, 3, "not to be found in the spool that this start left"),
        Batch(4, ()),
        Loss(5, 5, "the batch cannot be read back: odd"),
    ]
    leftover.close()


async def test_patience_ends_and_what_is_left_stays(tmp_path: Path):
    leave(tmp_path, "dead", [1, 2, 3])
    (leftover,) = found(tmp_path)
    collector = Collector(leftover, limit=2)
    assert not await deliver(leftover, collector, 0.05)
    assert not collector.running
    leftover.close()
    (again,) = found(tmp_path)
    assert again.after(2) == Batch(3, ())
    again.close()


def test_what_is_not_a_leftover_is_left_alone(tmp_path: Path):
    living = Spool(tmp_path / "living.sqlite", MANY)
    living.introduce(replace(HELLO, start_id="living"))
    living.put(Row(1, b"1"))
    leave(tmp_path, "own", [1])
    leave(tmp_path, "acked", [1, 2], acked=2)
    assert found(tmp_path) == []
    assert not (tmp_path / "acked.sqlite").exists()
    assert (tmp_path / "own.sqlite").exists()
    living.close()
    assert [leftover.hello.start_id for leftover in found(tmp_path)] == ["living"]


def test_what_cannot_be_read_is_set_aside(tmp_path: Path):
    (tmp_path / "junk.sqlite").write_bytes(b"not a database at all" * 100)
    leave(tmp_path, "renamed", [1]).rename(tmp_path / "other.sqlite")
    assert found(tmp_path) == []
    assert {file.name for file in tmp_path.iterdir()} == {DAMAGED}


def test_beyond_the_bound_the_oldest_go(tmp_path: Path):
    for age, name in enumerate(("newest", "middle", "oldest")):
        path = leave(tmp_path, name, [1])
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    size = (tmp_path / "newest.sqlite").stat().st_size
    kept = found(tmp_path, 2 * size)
    assert [leftover.hello.start_id for leftover in kept] == ["newest", "middle"]
    assert not (tmp_path / "oldest.sqlite").exists()
    for leftover in kept:
        leftover.close()
