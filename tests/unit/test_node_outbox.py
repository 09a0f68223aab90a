"""Windows are numbered, spooled, then offered; what the bounds or the disk cost is counted and declared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvmprobe.model.assignment import LeaseReport, LeaseState, Side
from cvmprobe.model.delivery import Batch, Hello, Loss, Preview
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Role
from cvmprobe.model.endpoint import Path as NetPath
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import ClockPair, Direction, Instance, Phase, Probe, SampleBlock, Window
from cvmprobe.node.outbox import Outbox
from cvmprobe.node.spool import Spool, SpoolError

SOURCE = Endpoint("a", Role.POD)
HELLO = Hello("1", SOURCE, "b", "s", 0, 0, Environment((), TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ())))
TARGET = EndpointTarget(Endpoint("b", Role.POD), NetPath.INTER_NODE)
INSTANCE = Instance("1" * 32, Probe.TCP_RR, SOURCE, TARGET, Direction.FORWARD, 0)
CLOCK = ClockPair(0, 0)


def window(number: int = 0, histogram: Histogram | None = None) -> Window:
    histograms = {} if histogram is None else {"latency_ns": histogram}
    return Window(INSTANCE, number, 1, Phase.STEADY, {"transactions": number}, histograms)


def block(rows: int, lost: int = 0) -> SampleBlock:
    return SampleBlock(INSTANCE, CLOCK, bytes(16 * rows), lost)


class Codec:
    """Bytes that stand for a batch, padded to a size."""

    def __init__(self, size: int = 100) -> None:
        self.size = size
        self.known: dict[bytes, Batch] = {}

    def pack(self, batch: Batch) -> bytes:
        packed = batch.seq.to_bytes(8, "little").ljust(self.size)
        self.known[packed] = batch
        return packed

    def unpack(self, packed: bytes) -> Batch:
        if packed not in self.known:
            raise ValueError("unknown")
        return self.known[packed]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def outbox(path: Path, codec: Codec | None = None, clock: Clock | None = None, **sizes: int) -> Outbox:
    codec = codec or Codec()
    bounds = {"spool_bytes": 1 << 20, "memory_bytes": 1 << 20, "sample_bytes": 1 << 20, **sizes}
    return Outbox(path, HELLO, pack=codec.pack, unpack=codec.unpack, clock=clock or Clock(), **bounds)


def drain(box: Outbox, seq: int = 0) -> list[Batch | Loss]:
    taken: list[Batch | Loss] = []
    while (item := box.after(seq)) is not None:
        taken.append(item)
        seq = item.seq if isinstance(item, Batch) else item.last_seq
    return taken


@pytest.fixture(name="path")
def spool_path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "s.sqlite"


def test_windows_are_offered_only_once_they_are_numbered_and_spooled(path: Path):
    box = outbox(path)
    box.add([window(1), window(2)])
    assert box.after(0) is None
    box.turn()
    assert drain(box) == [Batch(1, (window(1), window(2)))]
    assert (box.last_seq, box.pending) == (1, 1)
    box.forget(1)
    assert (box.acked, box.pending, box.lost) == (1, 0, 0)
    assert drain(box, 1) == []
    box.close(delivered=True)
    assert list(path.parent.iterdir()) == []


def test_nothing_is_numbered_or_offered_in_quiet_but_reports_and_one_preview(path: Path):
    box = outbox(path)
    box.add([window(1)])
    box.number()
    box.quiet = True
    box.add([window(2)])
    box.keep_samples([block(3)])
    box.turn()
    assert (box.last_seq, box.after(0)) == (1, None)
    report = LeaseReport("l", Side.INITIATOR, LeaseState.RUNNING)
    box.show((window(7),))
    box.show((window(8),))
    box.report(report)
    assert [box.next_unnumbered() for _ in range(3)] == [report, Preview((window(8),)), None]
    box.quiet = False
    box.turn()
    assert drain(box) == [Batch(1, (window(1),)), Batch(2, (window(2),))]
    assert box.next_unnumbered() == block(3)


def test_a_report_behind_samples_comes_after_them(path: Path):
    box = outbox(path)
    report = LeaseReport("l", Side.INITIATOR, LeaseState.DONE)
    box.keep_samples([block(1), block(2)])
    box.report(report, behind_samples=True)
    assert [box.next_unnumbered() for _ in range(4)] == [block(1), block(2), report, None]


def test_samples_beyond_the_bound_are_counted_as_lost(path: Path):
    box = outbox(path, sample_bytes=160)
    box.keep_samples([block(8, lost=1), block(5, lost=2), block(2)])
    assert [box.next_unnumbered() for _ in range(3)] == [block(8, 1), SampleBlock(INSTANCE, CLOCK, b"", 7), block(2)]
    box.keep_samples([block(10)])
    assert box.next_unnumbered() == block(10)


def test_samples_are_rationed_between_turns(path: Path):
    box = outbox(path, sample_bytes=64 << 20)
    box.keep_samples([block(400_000) for _ in range(3)])
    assert box.next_unnumbered() is not None
    assert box.next_unnumbered() is not None
    assert box.next_unnumbered() is None
    woken = []
    box.wake = lambda: woken.append(True)
    box.turn()
    assert woken == [True]
    assert box.next_unnumbered() is not None


def test_large_windows_are_cut_into_several_batches(path: Path):
    box = outbox(path)
    big = Histogram(buckets=dict.fromkeys(range(9_000), 1))
    box.add([window(number, big) for number in range(12)])
    box.number()
    batches = drain(box)
    assert len(batches) == 3
    assert [item.end_unix_ms for batch in batches if isinstance(batch, Batch) for item in batch.windows] == [*range(12)]


def test_what_the_bound_costs_is_declared_and_counted(path: Path):
    box = outbox(path, Codec(400_000), spool_bytes=1 << 20)
    for number in range(1, 6):
        box.add([window(number)])
        box.number()
    loss, *rest = drain(box)
    assert loss == Loss(1, 3, "the spool on disk was full at 1048576 bytes")
    assert [item.seq for item in rest if isinstance(item, Batch)] == [4, 5]
    assert (box.last_seq, box.pending, box.lost) == (5, 2, 3)
    box.forget(5)
    assert (box.acked, box.pending, box.lost) == (5, 0, 3)


def test_a_collector_that_lost_its_store_is_told_what_was_acked_before(path: Path):
    box = outbox(path)
    for number in range(1, 4):
        box.add([window(number)])
        box.number()
    box.forget(2)
    loss, batch = drain(box)
    assert loss == Loss(1, 2, "up to batch 2 all was acknowledged before, and forgotten")
    assert batch == Batch(3, (window(3),))


def test_without_a_disk_it_goes_on_in_memory_and_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    box = outbox(tmp_path / "file" / "s.sqlite", Codec(400_000), memory_bytes=1 << 20)
    for number in range(1, 5):
        box.add([window(number)])
        box.number()
    assert box.held_in_memory == 4
    loss, *rest = drain(box)
    assert loss == Loss(1, 2, "the disk refused, and the spool in memory was full")
    assert len(rest) == 2


def test_a_disk_that_refuses_for_a_while_is_used_again(path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    box = outbox(path, clock=clock)

    def number(seq: int) -> None:
        box.add([window(seq)])
        assert box.number() == seq

    def refuse(self: Spool, row: object) -> list[int]:
        raise SpoolError("cannot write spool: disk is full")

    number(1)
    disk = box._disk
    with monkeypatch.context() as patched:
        patched.setattr(disk.__class__, "put", _only_memory(refuse))
        number(2)
        number(3)
    number(4)  # not yet: the disk is left alone for a while
    clock.now += 61
    number(5)
    assert box.held_in_memory == 3
    assert [item.seq for item in drain(box) if isinstance(item, Batch)] == [1, 2, 3, 4, 5]
    box.forget(5)
    assert (box.pending, box.lost) == (0, 0)


def _only_memory(refuse):
    put = Spool.put
    return lambda self, row: put(self, row) if self.path is None else refuse(self, row)


def test_a_damaged_file_is_set_aside_and_its_batches_declared(path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    box = outbox(path, clock=clock)
    box.add([window(1)])
    box.number()

    def damaged(self: Spool, seq: int) -> None:
        raise SpoolError("database disk image is malformed", damaged=True)

    after = Spool.after
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "after", lambda self, seq: damaged(self, seq) if self.path else after(self, seq))
        (loss,) = drain(box)
    assert isinstance(loss, Loss)
    assert (loss.first_seq, loss.last_seq, box.lost) == (1, 1, 1)
    assert "damaged" in loss.reason
    clock.now += 61
    box.add([window(2)])
    box.number()
    assert path.exists()
    assert drain(box, 1) == [Batch(2, (window(2),))]


def test_a_batch_that_cannot_be_read_back_is_declared(path: Path):
    codec = Codec()
    box = outbox(path, codec)
    box.add([window(1)])
    box.number()
    codec.known.clear()
    (loss,) = drain(box)
    assert isinstance(loss, Loss)
    assert (loss.first_seq, loss.last_seq) == (1, 1)


def test_a_batch_that_cannot_be_written_down_is_counted(path: Path):
    class Odd(Codec):
        def pack(self, batch: Batch) -> bytes:
            raise ValueError("too odd")

    box = outbox(path, Odd())
    box.add([window(1)])
    box.number()
    assert box.lost == 1
    assert drain(box) == [Loss(1, 1, "the batch could not be written down: too odd")]


def test_the_spool_says_that_it_is_whole_only_after_the_end(path: Path):
    box = outbox(path)
    box.add([window(1)])
    box.quiet = True
    box.end()
    assert drain(box) == [Batch(1, (window(1),))]
    box.close(delivered=False)
    spool = Spool(path, 1 << 20)
    assert spool.ended
    assert spool.hello == HELLO
    spool.close()


FILLED = """
import resource, sys
from pathlib import Path
from tests.unit.test_node_outbox import Batch, Clock, Codec, drain, outbox, window

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
clock = Clock()
box = outbox(Path(sys.argv[1]), Codec(10_000), clock)
for number in range(1, 41):
    clock.now += 10
    box.add([window(number)])
    box.number()
batches = drain(box)
assert [item.seq for item in batches if isinstance(item, Batch)] == [*range(1, 41)], batches
assert (box.pending, box.lost) == (40, 0)
assert 0 < box.held_in_memory < 40
box.forget(40)
assert (box.pending, box.lost) == (0, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
clock.now += 61
box.add([window(41)])
before = box.held_in_memory
box.number()
assert box.held_in_memory == before, "room was made on the disk, and it is used again"
assert drain(box, 40) == [Batch(41, (window(41),))]
assert box.pending == 1
box.turn()
assert (box._disk.acked, box._disk.pending) == (40, 1)
box.close(delivered=True)
"""


def test_a_disk_that_is_full_costs_nothing_but_durability(path: Path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FILLED, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
