"""What the disk engine can be asked to do: orders, mixes, rates, syncs, several files, and checking what it reads."""

import collections
import os
import struct
import time
from pathlib import Path

import pytest
from tests.native.leaks import assert_no_leak
from tests.native.pipes import packet_pipe

from cvmprobe.errors import UsageError
from cvmprobe.native.disk import Disk
from cvmprobe.probes import scratch

MIB = 1 << 20
BLOCK = 4096
ENGINES = ["io_uring", "libaio", "threads", "sync"]
HEADER = struct.Struct("=QQQII")  # magic, run, offset, generation, crc
RUN = 4711


def finish(engine, within_s=30):
    engine.arm()
    engine.start()
    last = engine.snapshot(time.monotonic_ns() + within_s * 10**9)
    assert last.finished
    engine.stop()
    return last


def rows_of(engine):
    """(kind, t_ns, value_ns) of every row, in the order in which the operations ended."""
    rows, overwritten = engine.drain_samples()
    assert overwritten == 0
    found = [struct.unpack("<QIBBH", rows[at : at + 16]) for at in range(0, len(rows), 16)]
    return [(kind, t_ns, value_ns) for t_ns, value_ns, kind, _, _ in found]


def content(file):
    return Path(f"/proc/self/fd/{file.fd}").read_bytes()


def write_at(file, offset, data):
    fd = os.open(f"/proc/self/fd/{file.fd}", os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def crc32c(data):
    """The polynomial, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def lay(file, **asked):
    """Write every block once under its header."""
    arguments = {"fds": [file.fd], "file_bytes": file.size_bytes, "read_percent": 0, "append": True, "verify_run": RUN}
    engine = Disk(**{**arguments, "max_write_bytes": file.size_bytes, **asked})
    last = finish(engine)
    engine.close()
    return last


def read_back(file, generation=1, **asked):
    arguments = {"fds": [file.fd], "file_bytes": file.size_bytes, "verify_run": RUN, "generation": generation}
    engine = Disk(**{**arguments, "duration_ms": 100, "seed": 5, **asked})
    last = finish(engine)
    return last, engine


@pytest.mark.parametrize("engine", ENGINES)
def test_sequential_writes_go_from_the_first_block_to_the_last_and_begin_again(make_scratch, engine):
    file = make_scratch(MIB)
    before = content(file)
    blocks = MIB // BLOCK
    last = finish(
        Disk(
            fds=[file.fd],
            file_bytes=MIB,
            depth=4,
            sequential=True,
            read_percent=0,
            max_write_bytes=(blocks + 8) * BLOCK,
            engine=engine,
            seed=3,
        )
    )
    after = content(file)
    stamps = [int.from_bytes(after[at : at + 8], "little") for at in range(0, MIB, BLOCK)]
    assert last.counters["writes"] == blocks + 8
    assert [stamp - stamps[8] for stamp in stamps[8:]] == list(range(blocks - 8))
    assert [stamp - stamps[8] for stamp in stamps[:8]] == list(range(blocks - 8, blocks))
    assert all(before[at : at + BLOCK] != after[at : at + BLOCK] for at in range(0, MIB, BLOCK))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_appending_engine_ends_when_the_file_is_full(make_scratch, engine):
    file = make_scratch(MIB)
    last = finish(
        Disk(fds=[file.fd], file_bytes=MIB, append=True, read_percent=0, max_write_bytes=1 << 40, engine=engine)
    )
    assert last.counters["write_bytes"] == MIB


def test_a_mix_draws_its_share_and_keeps_both_sides_apart(make_scratch):
    file = make_scratch()
    engine = Disk(
        fds=[file.fd],
        file_bytes=file.size_bytes,
        read_percent=70,
        max_write_bytes=600 * BLOCK,
        ring_rows=1 << 13,
        seed=1,
    )
    last = finish(engine)
    reads, writes = last.counters["reads"], last.counters["writes"]
    assert writes == 600
    assert 1200 < reads < 1600  # 1400 expected, standard deviation 57, and the seed is fixed
    assert last.histograms["read_total_ns"].count == reads
    assert last.histograms["write_total_ns"].count == writes
    assert (
        last.histograms["read_total_ns"].sum + last.histograms["write_total_ns"].sum == last.histograms["total_ns"].sum
    )
    assert collections.Counter(kind for kind, _, _ in rows_of(engine)) == {0: reads, 1: writes}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("data_only", [False, True])
def test_a_sync_follows_every_so_many_writes(make_scratch, engine, data_only):
    file = make_scratch(MIB)
    with_disk = Disk(
        fds=[file.fd],
        file_bytes=MIB,
        depth=1,
        read_percent=0,
        max_write_bytes=60 * BLOCK,
        sync_every=8,
        data_only=data_only,
        engine=engine,
        ring_rows=256,
    )
    last = finish(with_disk)
    kinds = [kind for kind, _, _ in rows_of(with_disk)]
    assert kinds == ([1] * 8 + [2]) * 7 + [1] * 4
    assert (last.counters["writes"], last.counters["syncs"]) == (60, 7)
    assert last.histograms["sync_ns"].count == 7
    assert last.histograms["total_ns"].count == 60


def test_the_syncs_reach_the_kernel():
    """A pipe cannot be synced, which is how we know that it was tried."""
    reading, writing = os.pipe2(os.O_DIRECT)
    engine = Disk(
        fds=[writing],
        file_bytes=MIB,
        depth=1,
        read_percent=0,
        max_write_bytes=4 * BLOCK,
        sync_every=2,
        engine="threads",
    )
    engine.arm()
    engine.start()
    last = engine.snapshot(time.monotonic_ns() + 10**10)
    engine.close()
    os.close(reading)
    os.close(writing)
    assert last.counters["syncs"] == 0
    assert last.counters["other_errors"] >= 1


def test_each_worker_has_a_file_of_its_own_and_they_share_the_budget(make_scratch):
    files = [make_scratch(MIB) for _ in range(3)]
    before = [content(file) for file in files]
    engine = Disk(
        fds=[file.fd for file in files], file_bytes=MIB, depth=4, read_percent=0, max_write_bytes=600 * BLOCK, seed=2
    )
    last = finish(engine)
    assert len(engine.thread_ids) == 3
    assert last.counters["writes"] == 600
    assert all(old != content(file) for old, file in zip(before, files, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_open_loop_starts_what_the_rate_says(make_scratch, engine):
    file = make_scratch()
    with_disk = Disk(
        fds=[file.fd],
        file_bytes=file.size_bytes,
        rate_per_s=200,
        depth=8,
        duration_ms=500,
        engine=engine,
        ring_rows=1024,
    )
    last = finish(with_disk)
    assert last.counters["reads"] + last.counters["unstarted_operations"] == 100
    starts = sorted(t_ns - with_disk.started_ns for _, t_ns, _ in rows_of(with_disk))
    assert starts == [5_000_000 * i for i in range(len(starts))]
    total, service = last.histograms["total_ns"], last.histograms["service_ns"]
    assert total.count == service.count == last.counters["reads"]
    assert total.sum >= service.sum


def test_starts_that_are_nearer_than_a_sleep_costs_are_not_slept_for():
    """Reads of memory, 9 us apart, never block: a thread that gives up its CPU has gone to sleep between them."""
    fd = memory_file()
    engine = Disk(fds=[fd], file_bytes=MIB, depth=1, rate_per_s=111_111, engine="sync")
    engine.arm()
    engine.start()
    while (reads := engine.snapshot(time.monotonic_ns() + 1_000_000).counters["reads"]) < 5_000:
        assert engine.error is None
    status = Path(f"/proc/self/task/{engine.thread_ids[0]}/status").read_text()
    engine.close()
    os.close(fd)
    slept = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    assert slept < reads / 500


def memory_file():
    try:
        fd = os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no file in memory for direct I/O: {error}")
    os.ftruncate(fd, MIB)
    return fd


def test_workers_of_an_open_loop_share_the_rate_and_take_turns(make_scratch):
    files = [make_scratch(MIB) for _ in range(2)]
    engine = Disk(fds=[file.fd for file in files], file_bytes=MIB, rate_per_s=200, duration_ms=500, ring_rows=1024)
    last = finish(engine)
    assert last.counters["reads"] + last.counters["unstarted_operations"] == 100
    starts = sorted(t_ns - engine.started_ns for _, t_ns, _ in rows_of(engine))
    assert starts == [5_000_000 * i for i in range(len(starts))]


def test_a_rate_beyond_any_device_is_owed_to_the_operation_and_counted_at_once(make_scratch):
    file = make_scratch(MIB)
    with_disk = Disk(fds=[file.fd], file_bytes=MIB, rate_per_s=1e9, duration_ms=1000)
    last = finish(with_disk)
    assert last.counters["reads"] + last.counters["unstarted_operations"] == 10**9
    assert last.counters["cpu_ns"] < 1.1e9  # more than it lived: it counted them one by one


def test_a_device_that_falls_behind_is_charged_from_the_intended_start():
    """One packet is in the pipe every 20 ms, and 500 reads a second are meant to start."""
    reading, writing = packet_pipe()
    engine = Disk(fds=[reading], file_bytes=MIB, depth=1, rate_per_s=500, duration_ms=400, engine="io_uring")
    engine.arm()
    engine.start()
    for i in range(1, 20):
        engine.snapshot(engine.started_ns + i * 20_000_000)
        os.write(writing, bytes(BLOCK))
    last = engine.snapshot(time.monotonic_ns() + 20 * 10**9)
    engine.close()
    os.close(reading)
    os.close(writing)
    total, service = last.histograms["total_ns"], last.histograms["service_ns"]
    assert last.counters["reads"] >= 15
    assert total.maximum > 300_000_000
    assert total.sum > 3 * service.sum
    assert last.counters["unstarted_operations"] > 100
    assert last.counters["late_operations"] <= last.counters["reads"]


@pytest.mark.parametrize("engine", ENGINES)
def test_headers_are_what_the_format_says(make_scratch, engine):
    file = make_scratch(MIB)
    last = lay(file, engine=engine, depth=4)
    assert last.counters["writes"] == MIB // BLOCK
    data = content(file)
    for at in (0, 17 * BLOCK, MIB - BLOCK):
        block = data[at : at + BLOCK]
        magic, run, offset, generation, crc = HEADER.unpack_from(block)
        assert (magic.to_bytes(8, "little"), run, offset, generation) == (b"vmpblock", RUN, at, 1)
        assert crc == crc32c(block[:28] + bytes(4) + block[32:])


@pytest.mark.parametrize("engine", ENGINES)
def test_sound_blocks_pass_also_while_they_are_written(make_scratch, engine):
    file = make_scratch(MIB)
    lay(file)
    last, with_disk = read_back(file, read_percent=50, max_write_bytes=1 << 30, engine=engine, depth=32)
    with_disk.close()
    assert last.counters["reads"] > 0 < last.counters["writes"]
    assert [last.counters[name] for name in WRONG] == [0] * 4


WRONG = ["corrupt_blocks", "misplaced_blocks", "stale_blocks", "unchecked_reads"]


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda data: data[: 2 * BLOCK + 999] + bytes([data[2 * BLOCK + 999] ^ 1]) + data[2 * BLOCK + 1000 :], 0),
        (lambda data: data[: 2 * BLOCK] + bytes(BLOCK) + data[3 * BLOCK :], 0),
        (lambda data: data[: 2 * BLOCK] + data[BLOCK : 2 * BLOCK] + data[3 * BLOCK :], 1),
    ],
    ids=["one bit", "zeroes", "another block"],
)
def test_a_block_that_is_not_what_was_written_is_counted_by_kind_and_named(make_scratch, spoil, kind):
    file = make_scratch(MIB)
    lay(file)
    write_at(file, 0, spoil(content(file)))
    last, engine = read_back(file, sequential=True)
    counted = [last.counters[name] for name in WRONG]
    assert counted[kind] >= 1
    assert sum(counted) == counted[kind]
    assert engine.first_bad_offset() == 2 * BLOCK
    engine.close()


def test_a_lost_write_is_stale_and_another_runs_block_is_misplaced(make_scratch):
    file = make_scratch(MIB)
    lay(file)
    stale, engine = read_back(file, generation=2)
    engine.close()
    foreign, engine = read_back(file, verify_run=RUN + 1)
    engine.close()
    assert stale.counters["stale_blocks"] == stale.counters["reads"] > 0
    assert foreign.counters["misplaced_blocks"] == foreign.counters["reads"] > 0


def test_a_file_of_which_nothing_is_known_is_not_judged(make_scratch):
    last, engine = read_back(make_scratch(MIB), generation=0)
    engine.close()
    assert last.counters["unchecked_reads"] == last.counters["reads"] > 0
    assert engine.first_bad_offset() is None


def test_a_log_goes_through_the_page_cache_only_with_syncs(disk_dir):
    log = scratch.allocate(disk_dir, MIB, max_bytes=MIB)
    arguments = {"fds": [log.fd], "file_bytes": MIB, "block_bytes": 2300, "read_percent": 0, "direct": False}
    with pytest.raises(UsageError, match="measure memory"):
        Disk(**arguments)
    engine = Disk(**arguments, depth=1, append=True, sync_every=1, data_only=True, max_write_bytes=MIB, engine="sync")
    last = finish(engine)
    engine.close()
    log.close()
    assert last.counters["writes"] == MIB // 2300
    assert last.counters["syncs"] == MIB // 2300
    commit, parts = last.histograms["commit_ns"], [last.histograms[name] for name in ("total_ns", "sync_ns")]
    assert commit.count == last.counters["syncs"]
    assert commit.sum >= sum(part.sum for part in parts)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"fds": []}, "0 files"),
        ({"read_percent": 101}, "read_percent 101"),
        ({"sync_every": 1}, "sync_every 1: reads alone"),
        ({"append": True}, "never of a log"),
        ({"direct": False}, "past the page cache"),
        ({"rate_per_s": -1.0}, "rate_per_s -1.0"),
        ({"verify_run": 1, "depth": 256}, "too small to verify"),
        ({"verify_run": 1, "file_bytes": 1 << 40, "block_bytes": 512}, "too big to verify"),
    ],
)
def test_what_does_not_go_together_is_named(asked, message):
    with pytest.raises(UsageError, match=message):
        Disk(**{"fds": [0], "file_bytes": MIB, **asked})


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_leaks_from_an_engine_with_everything(make_scratch, engine):
    files = [make_scratch(MIB) for _ in range(2)]

    def once():
        with_disk = Disk(
            fds=[file.fd for file in files],
            file_bytes=MIB,
            depth=32,
            read_percent=50,
            sync_every=4,
            rate_per_s=10_000,
            verify_run=RUN,
            max_write_bytes=MIB,
            engine=engine,
            ring_rows=1 << 14,
            duration_ms=20,
        )
        finish(with_disk)
        with_disk.close()

    assert_no_leak(once, repeats=20)
