"""The disk engine against the kernel's own counts, the file's content, and stalled, short and failing files."""

import collections
import errno
import os
import time
from pathlib import Path

import pytest
from tests.native.leaks import descriptors, threads
from tests.native.pipes import packet_pipe

from cvmprobe.errors import EngineError, UnsoundError, UsageError
from cvmprobe.native.disk import Disk

MIB = 1 << 20
BLOCK = 4096
ENGINES = ["io_uring", "libaio", "threads", "sync"]
FAILURES = ("short_transfers", "io_errors", "space_errors", "other_errors", "abandoned_operations")


def finish(engine, within_s=20):
    """Run an engine that ends by itself to its end; return its last snapshot."""
    engine.arm()
    engine.start()
    last = engine.snapshot(time.monotonic_ns() + within_s * 10**9)
    assert last.finished
    engine.stop()
    return last


@pytest.fixture
def stalled():
    """Reads of this file never end by themselves: the reading end of an open, empty pipe."""
    reading, writing = packet_pipe()
    yield reading, writing
    for fd in (reading, writing):
        os.close(fd)


class SplitMix:
    """The engine's random sequence, slowly."""

    def __init__(self, seed):
        self.state = seed

    def draw(self):
        mask = 2**64 - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)


def blocks_of(file):
    data = Path(f"/proc/self/fd/{file.fd}").read_bytes()
    assert len(data) == file.size_bytes
    return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("depth", [1, 8])
def test_bytes_read_are_those_the_kernel_charged_us_for(make_scratch, engine, depth):
    file = make_scratch()
    before = kernel_read_bytes()
    with_disk = Disk(fds=[file.fd], file_bytes=file.size_bytes, depth=depth, engine=engine, duration_ms=100)
    last = finish(with_disk)
    charged = kernel_read_bytes() - before
    counted = last.counters["read_bytes"]
    assert counted == last.counters["reads"] * BLOCK > 0
    assert counted <= charged <= counted + MIB  # Python may have read a file meanwhile


def kernel_read_bytes():
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError as error:
        pytest.skip(f"the kernel does not count I/O: {error}")
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_operation_is_in_counter_histograms_and_ring(make_scratch, engine):
    file = make_scratch()
    with_disk = Disk(fds=[file.fd], file_bytes=file.size_bytes, engine=engine, ring_rows=1 << 17, duration_ms=100)
    last = finish(with_disk)
    reads = last.counters["reads"]
    rows, overwritten = with_disk.drain_samples()
    assert {histogram.count for histogram in last.histograms.values()} == {reads}
    assert reads == len(rows) // 16 + overwritten
    parts = {name: histogram.sum for name, histogram in last.histograms.items()}
    assert parts["total_ns"] == parts["submit_ns"] + parts["device_ns"]
    assert [last.counters[name] for name in FAILURES] == [0] * len(FAILURES)
    assert with_disk.error is None


def test_rows_tell_start_latency_kind_and_slot(make_scratch):
    file = make_scratch()
    depth = 4
    with_disk = Disk(
        fds=[file.fd], file_bytes=MIB, depth=depth, read_percent=0, max_write_bytes=64 * BLOCK, ring_rows=64, seed=1
    )
    last = finish(with_disk)
    rows, overwritten = with_disk.drain_samples()
    assert overwritten == 0
    records = [rows[at : at + 16] for at in range(0, len(rows), 16)]
    values = [int.from_bytes(row[8:12], "little") for row in records]
    assert sum(values) == last.histograms["total_ns"].sum
    assert {row[12] for row in records} == {1}
    assert {int.from_bytes(row[14:16], "little") for row in records} == set(range(depth))
    starts = [int.from_bytes(row[:8], "little") for row in records]
    assert all(with_disk.started_ns <= start <= last.t_ns for start in starts)


@pytest.mark.parametrize("engine", ENGINES)
def test_writes_change_exactly_the_blocks_that_were_drawn(make_scratch, engine):
    file = make_scratch()
    depth, count, seed = 4, 300, 7
    before = blocks_of(file)
    last = finish(
        Disk(
            fds=[file.fd],
            file_bytes=file.size_bytes,
            depth=depth,
            read_percent=0,
            max_write_bytes=count * BLOCK + 5,
            engine=engine,
            seed=seed,
        )
    )
    after = blocks_of(file)
    oracle = SplitMix(seed)
    buffers = [oracle.draw() for _ in range(depth * BLOCK // 8)]
    stamp = oracle.draw()
    drawn = [oracle.draw() * len(before) >> 64 for _ in range(count)]
    changed = {i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}
    assert last.counters["writes"] == count
    assert last.counters["write_bytes"] == count * BLOCK
    assert changed == set(drawn)
    stamps = collections.Counter(int.from_bytes(after[i][:8], "little") - stamp for i in changed)
    assert max(stamps.values()) == 1
    assert set(stamps) <= set(range(1, count + 1))
    sources = {tuple(buffers[at + 1 : at + 512]) for at in range(0, len(buffers), 512)}
    contents = {tuple(int.from_bytes(after[i][at : at + 8], "little") for at in range(8, BLOCK, 8)) for i in changed}
    assert contents <= sources


def test_writes_reach_every_block_evenly(make_scratch):
    file = make_scratch(MIB)
    blocks, count = MIB // BLOCK, 100 * MIB // BLOCK
    before = blocks_of(file)
    finish(Disk(fds=[file.fd], file_bytes=MIB, read_percent=0, max_write_bytes=count * BLOCK, seed=3))
    assert all(old != new for old, new in zip(before, blocks_of(file), strict=True))
    oracle = SplitMix(3)
    drawn = collections.Counter(oracle.draw() * blocks >> 64 for _ in range(count))
    chi_squared = sum((drawn[i] - 100) ** 2 / 100 for i in range(blocks))
    assert 170 < chi_squared < 370  # 255 degrees of freedom: outside once in 10 000 seeds, and the seed is fixed


@pytest.mark.parametrize("engine", ENGINES)
def test_intervals_add_up_to_the_total(make_scratch, engine):
    file = make_scratch()
    with_disk = Disk(fds=[file.fd], file_bytes=file.size_bytes, engine=engine, duration_ms=150)
    with_disk.arm()
    with_disk.start()
    shots = [with_disk.snapshot(with_disk.started_ns + k * 20_000_000) for k in range(1, 8)]
    shots.append(with_disk.snapshot(time.monotonic_ns() + 20 * 10**9))
    with_disk.stop()
    counts = [shot.counters["reads"] for shot in shots]
    assert counts == sorted(counts)
    assert shots[-1].finished
    windows = [
        shots[i].histograms["total_ns"].minus(shots[i - 1].histograms["total_ns"]).count for i in range(1, len(shots))
    ]
    assert shots[0].histograms["total_ns"].count + sum(windows) == counts[-1] == with_disk.snapshot().counters["reads"]


def test_facts_tell_how_it_was_done(make_scratch):
    file = make_scratch(MIB)
    with_disk = Disk(fds=[file.fd], file_bytes=MIB, engine="libaio", notes={"filesystem": "ext4"})
    with_disk.arm()
    assert with_disk.facts == {"placement": "inherit", "filesystem": "ext4", "engine": "libaio", "depth": "32"}
    with_disk.close()


def test_stop_does_not_wait_for_a_device_that_does_not_answer(stalled):
    with_disk = Disk(fds=[stalled[0]], file_bytes=MIB, depth=8, engine="io_uring")
    with_disk.arm()
    with_disk.start()
    with_disk.snapshot(with_disk.started_ns + 10_000_000)
    began = time.monotonic()
    with_disk.stop()
    took = time.monotonic() - began
    last = with_disk.snapshot()
    with_disk.close()
    assert took < 1  # 100 ms in quiet; without a bounded wait it never ends
    assert last.finished
    assert last.counters["reads"] == 0
    assert last.counters["abandoned_operations"] == 8


def test_short_transfers_are_counted_and_are_no_reads(stalled):
    reading, writing = stalled
    with_disk = Disk(fds=[reading], file_bytes=MIB, depth=2, engine="io_uring")
    with_disk.arm()
    with_disk.start()
    os.write(writing, b"x" * 100)
    os.write(writing, b"y" * BLOCK)
    os.write(writing, b"z" * 100)
    while sum(with_disk.snapshot().counters[name] for name in ("reads", "short_transfers")) < 3:
        with_disk.snapshot(time.monotonic_ns() + 1_000_000)
    with_disk.stop()
    last = with_disk.snapshot()
    with_disk.close()
    assert (last.counters["reads"], last.counters["read_bytes"], last.counters["short_transfers"]) == (1, BLOCK, 2)
    assert last.histograms["total_ns"].count == 1
    assert with_disk.error is None


def test_a_file_that_only_gives_short_transfers_ends_the_engine():
    reading, writing = packet_pipe()
    os.close(writing)  # every read returns 0 bytes
    with_disk = Disk(fds=[reading], file_bytes=MIB, depth=2, engine="io_uring")
    last = finish(with_disk)
    with_disk.close()
    os.close(reading)
    assert with_disk.error == ("pread", errno.EIO)
    assert 64 <= last.counters["short_transfers"] <= 66


@pytest.mark.parametrize(("engine", "call"), [("io_uring", "pread"), ("libaio", "io_submit")])
def test_the_errno_of_failing_operations_is_kept(disk_dir, engine, call):
    path = disk_dir / "write-only"
    path.write_bytes(bytes(MIB))
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    with_disk = Disk(fds=[fd], file_bytes=MIB, depth=1, engine=engine)
    last = finish(with_disk)
    with_disk.close()
    os.close(fd)
    assert with_disk.error == (call, errno.EBADF)
    assert last.counters["other_errors"] == (64 if engine == "io_uring" else 0)
    assert last.counters["reads"] == 0


def test_a_file_without_direct_io_is_unsound(tmp_path):
    path = tmp_path / "cached"
    path.write_bytes(bytes(MIB))
    with path.open("rb") as file, pytest.raises(UnsoundError, match="direct I/O"):
        Disk(fds=[file.fileno()], file_bytes=MIB).arm()


def test_a_descriptor_that_is_not_open_is_named():
    with pytest.raises(EngineError, match="descriptor 999999") as refusal:
        Disk(fds=[999_999], file_bytes=MIB).arm()
    assert refusal.value.errno == errno.EBADF


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "posixaio"),
        ("depth", 0),
        ("depth", 1025),
        ("block_bytes", 0),
        ("block_bytes", 1000),
        ("block_bytes", 2 * MIB),
        ("file_bytes", 0),
        ("file_bytes", MIB + 1),
    ],
)
def test_values_out_of_range_are_named(name, value):
    arguments = {"fds": [0], "file_bytes": MIB, name: value}
    with pytest.raises(UsageError, match=f"{name}.*{value}"):
        Disk(**arguments)


def test_too_much_memory_is_refused():
    with pytest.raises(UsageError, match="1 workers x depth 1024 x block_bytes 1048576"):
        Disk(fds=[0], file_bytes=MIB, depth=1024, block_bytes=MIB)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ending", ["idle", "armed", "stopped", "failed", "forgotten"])
def test_nothing_is_left_of_an_engine(make_scratch, engine, ending):
    file = make_scratch(MIB)

    def once():
        size = 256 * MIB if ending == "failed" else MIB  # reads past the end are short: the engine fails
        with_disk = Disk(fds=[file.fd], file_bytes=size, depth=32, block_bytes=MIB // 32, engine=engine)
        if ending == "idle":
            return with_disk.close()
        with_disk.arm()
        if ending == "armed":
            return with_disk.close()
        with_disk.start()
        if ending == "failed":
            assert with_disk.snapshot(time.monotonic_ns() + 20 * 10**9).finished
            assert with_disk.error is not None
        if ending != "forgotten":
            with_disk.stop()
            with_disk.close()
        return None

    once()
    before, mapped = resources(), mapped_bytes()
    for _ in range(10):
        once()
    assert settled(before) == before
    assert mapped_bytes() - mapped < 5 * MIB  # ten leaked sets of buffers are 10 MiB


def resources():
    maps = Path("/proc/self/maps").read_text()
    return {
        "descriptors": descriptors(),
        "threads": threads(),
        "aio contexts": maps.count("/[aio]"),
        "rings": maps.count("[io_uring]"),
    }


def mapped_bytes():
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def settled(expected):
    """Resources once they are as expected, or after a while: a thread stays in /proc for a moment after its join."""
    until = time.monotonic() + 5
    while resources() != expected and time.monotonic() < until:
        os.sched_yield()
    return resources()
