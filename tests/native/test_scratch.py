"""Scratch files: written through and through, within their limits, and never left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.native.seccomp import NUMBERS, run_refused

from cvmprobe.errors import EngineError, UnsoundError, UsageError
from cvmprobe.probes import scratch

MIB = 1 << 20


@pytest.fixture
def plain_file(disk_dir):
    """A descriptor of an empty file on a real disk, open for direct I/O."""
    fd = os.open(disk_dir / "plain", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    yield fd
    os.close(fd)


@pytest.fixture
def shelf():
    made = scratch.Shelf(keep_s=60)
    yield made
    made.clear()


@pytest.fixture
def named_files(monkeypatch):
    """As on a file system that cannot make files without a name: kernels without O_TMPFILE read the flag as EISDIR."""
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_WRONLY)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def wait_until(condition, within_s=10):
    until = time.monotonic() + within_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


def test_every_page_is_random_and_none_is_like_another(make_scratch):
    file = make_scratch(2 * MIB)
    data = Path(f"/proc/self/fd/{file.fd}").read_bytes()
    pages = {data[at : at + 4096] for at in range(0, len(data), 4096)}
    assert (len(data), len(pages), file.filled_bytes) == (2 * MIB, 512, 2 * MIB)
    assert len(set(data[:4096])) > 200


def test_the_file_has_no_name_and_ends_with_its_descriptor(disk_dir):
    file = scratch.prepare(disk_dir, MIB, max_bytes=MIB)
    assert list(disk_dir.iterdir()) == []
    assert os.fstat(file.fd).st_nlink == 0
    file.close()
    assert not is_open(file.fd)


@pytest.mark.usefixtures("named_files")
def test_where_unnamed_files_are_not_to_be_had_the_name_goes_at_once(disk_dir):
    file = scratch.prepare(disk_dir, MIB, max_bytes=MIB)
    assert (list(disk_dir.iterdir()), os.fstat(file.fd).st_nlink) == ([], 0)
    file.close()


@pytest.mark.usefixtures("named_files")
def test_a_name_that_a_kill_left_goes_at_the_next_start_and_nothing_else_does(disk_dir):
    code = (
        "import os, pathlib, signal, sys\nfrom cvmprobe.probes import scratch\n"
        "os.O_TMPFILE = os.O_DIRECTORY | os.O_WRONLY\n"
        "pathlib.Path.unlink = lambda path, missing_ok=False: os.kill(os.getpid(), signal.SIGKILL)\n"
        "scratch.prepare(pathlib.Path(sys.argv[1]), 1 << 20, max_bytes=1 << 20)"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    killed = subprocess.run([sys.executable, "-c", code, disk_dir], env=environment, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(disk_dir.iterdir())) == 1
    others = [disk_dir / ".cvmprobe-notes", disk_dir / f"cvmprobe-{'0' * 32}", disk_dir / f".cvmprobe-{'a' * 32}"]
    others[0].touch()
    others[1].touch()
    others[2].mkdir()
    file = scratch.prepare(disk_dir, MIB, max_bytes=MIB)
    assert set(disk_dir.iterdir()) == set(others)
    file.close()


@pytest.mark.usefixtures("named_files")
def test_two_starts_may_take_away_each_others_names(disk_dir, monkeypatch):
    opened = os.open

    def open_and_lose(path, *given):
        fd = opened(path, *given)
        Path(path).unlink()
        return fd

    monkeypatch.setattr(scratch.os, "open", open_and_lose)
    fd = scratch._open_unnamed(disk_dir, os.O_DIRECT)
    monkeypatch.undo()
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


@pytest.mark.parametrize("make", ["prepare", "allocate"])
def test_nothing_is_left_after_kill_9(disk_dir, make):
    code = (
        "import sys, pathlib, signal\nfrom cvmprobe.probes import scratch\n"
        f"file = scratch.{make}(pathlib.Path(sys.argv[1]), 1 << 20, max_bytes=1 << 20)\n"
        "print(file.fd, flush=True)\nsignal.pause()"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    with subprocess.Popen(
        [sys.executable, "-c", code, disk_dir], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        fd = int(child.stdout.readline())
        assert Path(f"/proc/{child.pid}/fd/{fd}").stat().st_size == MIB
        child.kill()
        assert child.wait(timeout=20) == -signal.SIGKILL
    assert list(disk_dir.iterdir()) == []


def test_facts_name_the_file_system_and_the_proof(make_scratch):
    facts = make_scratch(MIB).facts
    assert facts["scratch"] == "filled"
    assert facts["filesystem"] in Path("/proc/filesystems").read_text()
    assert facts["extents"].endswith(" written")
    assert int(facts["extents"].split()[0]) >= 1


def test_allocated_but_unwritten_blocks_are_unsound(plain_file):
    os.posix_fallocate(plain_file, 0, MIB)
    with pytest.raises(UnsoundError, match="not written at byte 0: unwritten"):
        scratch.prove(plain_file, MIB)


def test_a_block_smaller_than_the_device_takes_is_refused_and_named(make_scratch):
    file = make_scratch(MIB)
    for block_bytes in (4096, MIB):
        scratch.check_block(file.fd, block_bytes, Path("/volume"))
    with pytest.raises(UsageError, match="block_bytes=100: the device under /volume"):
        scratch.check_block(file.fd, 100, Path("/volume"))
    with pytest.raises(EngineError, match="read a scratch file in /volume: preadv: Bad file descriptor"):
        scratch.check_block(999_999, 4096, Path("/volume"))


def test_one_unwritten_block_in_a_written_file_is_found(plain_file):
    scratch.fill(plain_file, MIB, "fill")
    scratch.prove(plain_file, MIB)
    os.posix_fallocate(plain_file, MIB, 4096)
    with pytest.raises(UnsoundError, match=f"not written at byte {MIB}"):
        scratch.prove(plain_file, MIB + 4096)


def test_a_hole_is_unsound_wherever_it_is(plain_file):
    scratch.fill(plain_file, 2 * MIB, "fill")
    punch(plain_file, MIB, 4096)
    with pytest.raises(UnsoundError, match=f"not written at byte {MIB}: hole"):
        scratch.prove(plain_file, 2 * MIB)
    os.ftruncate(plain_file, MIB)
    assert scratch.prove(plain_file, MIB).endswith("written")
    os.ftruncate(plain_file, 2 * MIB)
    with pytest.raises(UnsoundError, match="hole"):
        scratch.prove(plain_file, 2 * MIB)


def punch(fd, offset, length):
    keep_size_punch_hole = 3
    libc = ctypes.CDLL(None, use_errno=True)
    wide = ctypes.c_int64
    assert libc.fallocate(fd, keep_size_punch_hole, wide(offset), wide(length)) == 0, os.strerror(ctypes.get_errno())


def test_a_file_of_more_extents_than_one_call_tells_is_looked_at_to_its_end(monkeypatch):
    unwritten, step = 0x800, 4096
    told = [(i * step, step, 0) for i in range(2 * scratch.FIEMAP_ROOM + 3)]
    monkeypatch.setattr(
        scratch, "_fiemap", lambda fd, start, length: [at for at in told if at[0] >= start][: scratch.FIEMAP_ROOM]
    )
    size = step * len(told)
    assert scratch.prove(-1, size) == f"{len(told)} written"
    with pytest.raises(UnsoundError, match=f"ends at byte {size} of {size + 1}: hole"):
        scratch.prove(-1, size + 1)
    told[-1] = (size - step, step, unwritten)
    with pytest.raises(UnsoundError, match=f"not written at byte {size - step}: unwritten"):
        scratch.prove(-1, size)


def test_memory_is_refused_and_measured_only_when_asked():
    memory = Path("/dev/shm")
    if scratch._mount_of(memory).filesystem != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    with pytest.raises(UnsoundError, match=r"tmpfs.*any_filesystem=true"):
        scratch.prepare(memory, MIB, max_bytes=MIB)
    try:
        file = scratch.prepare(memory, MIB, max_bytes=MIB, any_filesystem=True)
    except UnsoundError as refusal:
        pytest.skip(f"this kernel's tmpfs has no direct I/O: {refusal}")
    assert file.facts["extents"].startswith("unproven")
    file.close()


def test_a_containers_layer_is_refused(disk_dir, monkeypatch):
    monkeypatch.setattr(scratch, "_mount_of", lambda volume: scratch._Mount("overlay", "overlay"))
    with pytest.raises(UnsoundError, match=r"overlay.*give a volume"):
        scratch.prepare(disk_dir, MIB, max_bytes=MIB)
    scratch.prepare(disk_dir, MIB, max_bytes=MIB, any_filesystem=True).close()


def test_a_file_system_that_cannot_prove_is_refused():
    reading, writing = os.pipe()
    with pytest.raises(UnsoundError, match="FIEMAP"):
        scratch.prove(reading, MIB)
    assert scratch.prove(reading, MIB, required=False).startswith("unproven: FIEMAP: E")
    os.close(reading)
    os.close(writing)


def test_the_mount_is_that_of_the_nearest_mount_point():
    assert scratch._mount_of(Path("/proc/self")).filesystem == "proc"
    assert scratch._mount_of(Path("/")).filesystem != "proc"


def test_a_volume_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="missing: No such file"):
        scratch.prepare(tmp_path / "missing", MIB, max_bytes=MIB)


@pytest.mark.parametrize(
    ("size", "allowed", "why"), [(MIB + 1, 9 * MIB, "whole number of MiB"), (2 * MIB, MIB, "may be")]
)
def test_size_and_write_budget_bind(disk_dir, size, allowed, why):
    with pytest.raises(UsageError, match=f"{size}.*{why}"):
        scratch.prepare(disk_dir, size, max_bytes=allowed)


def test_the_free_space_floor_holds(disk_dir):
    space = os.statvfs(disk_dir)
    size = space.f_bavail * space.f_frsize // MIB * MIB
    with pytest.raises(UsageError, match="would leave less than 15%"):
        scratch.prepare(disk_dir, size, max_bytes=2 * size)
    assert list(disk_dir.iterdir()) == []


@pytest.mark.skipif("pwrite64" not in NUMBERS, reason="system call numbers of this machine are not listed")
def test_a_full_disk_leaves_nothing_behind(disk_dir):
    code = """
import errno, os, pathlib
from cvmprobe.errors import EngineError
from cvmprobe.probes import scratch
refuse("pwrite64", errno.ENOSPC)
before = len(os.listdir("/proc/self/fd"))
try:
    scratch.prepare(pathlib.Path(sys.argv[1]), 1 << 20, max_bytes=1 << 20)
except EngineError as error:
    print(error.call, error.errno == errno.ENOSPC, len(os.listdir("/proc/self/fd")) - before, error)
"""
    printed = run_refused(code, str(disk_dir))
    assert printed.startswith(f"write True 0 fill a scratch file of {MIB} bytes in {disk_dir}")
    assert list(disk_dir.iterdir()) == []


def test_a_stop_ends_the_filling(disk_dir):
    asked = iter([False, False, True])
    with pytest.raises(UsageError, match=f"stopped on request after {2 * MIB} bytes"):
        scratch.prepare(disk_dir, 64 * MIB, max_bytes=64 * MIB, stopping=lambda: next(asked))
    assert list(disk_dir.iterdir()) == []


def test_an_error_leaves_no_descriptor(disk_dir, monkeypatch):
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(scratch, "fill", lambda fd, size, doing, stopping: os.posix_fallocate(fd, 0, size))
    with pytest.raises(UnsoundError, match="unwritten"):
        scratch.prepare(disk_dir, MIB, max_bytes=MIB)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_next_execution_gets_the_same_file(disk_dir, shelf):
    first = scratch.prepare(disk_dir, MIB, max_bytes=MIB)
    shelf.put(disk_dir, first)
    assert shelf.take(disk_dir, 2 * MIB) is None
    again = shelf.take(disk_dir, MIB)
    assert (again.fd, again.filled_bytes, again.facts["scratch"]) == (first.fd, 0, "re-used")
    assert shelf.take(disk_dir, MIB) is None
    again.close()


def test_a_file_that_lost_a_block_is_not_used_again(disk_dir, shelf):
    file = scratch.prepare(disk_dir, MIB, max_bytes=MIB)
    shelf.put(disk_dir, file)
    punch(file.fd, 0, 4096)
    with pytest.raises(UnsoundError, match="hole"):
        shelf.take(disk_dir, MIB)
    assert not is_open(file.fd)


def test_an_unused_file_is_freed_after_a_while(disk_dir):
    shelf = scratch.Shelf(keep_s=0.02)
    file = scratch.prepare(disk_dir, MIB, max_bytes=MIB)
    shelf.put(disk_dir, file)
    assert wait_until(lambda: not is_open(file.fd))
    assert shelf.take(disk_dir, MIB) is None


def test_a_file_whose_directory_vanished_is_freed(disk_dir, shelf):
    volume = disk_dir / "volume"
    volume.mkdir()
    file = scratch.prepare(volume, MIB, max_bytes=MIB)
    volume.rmdir()
    shelf.put(volume, file)
    assert not is_open(file.fd)


def test_every_worker_finds_its_file_again(disk_dir, shelf):
    files = [scratch.prepare(disk_dir, MIB, max_bytes=MIB) for _ in range(2)]
    for file in files:
        shelf.put(disk_dir, file)
    taken = [shelf.take(disk_dir, MIB) for _ in range(2)]
    assert {file.fd for file in taken} == {file.fd for file in files}
    assert shelf.take(disk_dir, MIB) is None
    for file in taken:
        shelf.put(disk_dir, file)
    shelf.clear()
    assert not any(is_open(file.fd) for file in files)


def test_a_log_is_allocated_and_not_written(disk_dir):
    log = scratch.allocate(disk_dir, MIB, max_bytes=MIB)
    assert (os.fstat(log.fd).st_size, os.fstat(log.fd).st_nlink, log.filled_bytes) == (MIB, 0, 0)
    with pytest.raises(UnsoundError, match="not written at byte 0: unwritten"):
        scratch.prove(log.fd, MIB)
    log.close()


def test_a_log_keeps_to_the_limits_too(disk_dir):
    with pytest.raises(UsageError, match="more than may be written"):
        scratch.allocate(disk_dir, 2 * MIB, max_bytes=MIB)
    with pytest.raises(UnsoundError, match="is memory"):
        scratch.allocate(Path("/dev/shm"), MIB, max_bytes=MIB)


def test_a_kernel_refusal_names_the_directory(disk_dir, monkeypatch):
    monkeypatch.setattr(scratch, "_mount_of", lambda volume: scratch._Mount("ext4", "/dev/x"))
    monkeypatch.setattr(scratch, "check_limits", lambda *given: None)
    with pytest.raises(EngineError, match=r"make a scratch file in .*missing: open: No such file"):
        scratch.prepare(disk_dir / "missing", MIB, max_bytes=MIB)
