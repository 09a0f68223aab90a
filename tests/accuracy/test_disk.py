"""The disk probe against a device whose rate, room and content are known: a loop device under a cgroup's throttle."""

import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager

import pytest
from tests.accuracy.cgroups import group
from tests.accuracy.loop_device import MIB, loop_disk

from cvmprobe.errors import EngineError, UnsoundError, UsageError
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe
from cvmprobe.native.disk import Disk
from cvmprobe.probes import scratch
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.execution import Setup

TOOLS = ("losetup", "mkfs.ext4", "mount")
ENGINES = ["io_uring", "libaio", "threads", "sync"]
EXACT = 0.01
SLICE_MS = 110  # the throttle serves in slices of 100 ms, which begin and end anywhere in a window
METADATA = 16  # operations of the file system itself


@pytest.fixture
def disk(tmp_path):
    """A loop disk with room for a few scratch files."""
    with made_disk(tmp_path, 256 * MIB) as made:
        yield made


@pytest.fixture
def small_disk(tmp_path):
    with made_disk(tmp_path, 32 * MIB) as made:
        yield made


@contextmanager
def made_disk(tmp_path, size_bytes, sector_bytes=512):
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"missing {', '.join(missing)} (Debian: apt-get install mount e2fsprogs)")
    with ExitStack() as undo:
        try:
            made = undo.enter_context(loop_disk(tmp_path, size_bytes, sector_bytes))
        except RuntimeError as refusal:
            pytest.skip(f"no loop device to be had: {refusal}")
        undo.callback(scratch.SHELF.clear)  # an open file keeps the mount busy
        yield made


def measure(directory, **asked):
    """One execution of the probe that ends well; its result."""
    result = execute(directory, **asked)
    assert result.error is None
    return result


def execute(directory, *, duration_ms, **parameters):
    asked = {name: str(value) for name, value in {"file_bytes": 32 * MIB, **parameters}.items()}
    instance = Instance(
        "0" * 32, Probe.DISK, Endpoint("n", Role.POD), VolumeTarget("v"), Direction.NONE, 0, parameters=asked
    )
    execution = prepare(Setup(instance, 500, duration_ms, 1 << 40, volume=directory))
    list(execution.observe())
    return execution.result()


def throttled(disk, limit, *, bytes_each=None, **parameters):
    """The same under a limit of so many operations a second, or of their bytes; the file is made before it."""
    measure(disk.directory, **{**parameters, "mode": "randread", "rate_per_s": 0, "omit_ms": 0, "duration_ms": 500})
    with made_group("io") as limited:
        if bytes_each is None:
            limited.limit_iops(disk.number, limit)
        else:
            limited.limit_bytes(disk.number, limit * bytes_each)
        with limited.joined():
            result = measure(disk.directory, **parameters)
        served = limited.served(disk.number)
    done = sum(result.totals.get(name, 0) for name in ("reads", "writes"))
    assert 0 <= served - done <= METADATA, f"the kernel served {served}, we counted {done}"
    return result


def at_its_limit(disk, limit, **parameters):
    """The same on a machine quiet enough for the throttle itself to keep its time: one of three trials."""
    for _ in range(3):
        result = throttled(disk, limit, **parameters)
        if abs(iops(result) / limit - 1) <= EXACT:
            break
    print(f"{iops(result):.1f} of {limit}")
    assert iops(result) == pytest.approx(limit, rel=EXACT)
    return result


@contextmanager
def made_group(controller):
    with ExitStack() as undo:
        try:
            made = undo.enter_context(group(controller))
        except OSError as refusal:
            pytest.skip(f"no cgroup with {controller} to be had: {refusal}")
        yield made


def steady(result):
    return [window for window in result.windows if window.phase is Phase.STEADY]


def iops(result):
    windows = steady(result)
    done = sum(window.counters.get(name, 0) for window in windows for name in ("reads", "writes"))
    return done / (sum(window.duration_ns for window in windows) / 1e9)


def mean_ms(histogram):
    return histogram.sum / histogram.count / 1e6


@pytest.mark.parametrize(("limit", "depth"), [(300, 32), (500, 32), (2000, 128)])
@pytest.mark.parametrize("mode", ["randread", "randwrite"])
def test_operations_are_those_that_the_throttle_lets_through(disk, mode, limit, depth):
    """The queue is deep enough to bridge 60 ms in which another process has our CPU."""
    result = at_its_limit(disk, limit, mode=mode, depth=depth, duration_ms=11_000, omit_ms=1_000)
    flags = {flag for window in result.windows for flag in window.flags}
    assert Flag.LITTLE not in flags or Flag.STARVED in flags  # whoever has no CPU cannot hold a depth, and says so


@pytest.mark.parametrize(("mode", "block_bytes", "limit"), [("randread", 4096, 1024), ("write", 256 << 10, 64)])
def test_bytes_are_those_that_the_throttle_lets_through(disk, mode, block_bytes, limit):
    asked = {"mode": mode, "block_bytes": block_bytes, "duration_ms": 6_000, "omit_ms": 1_000}
    at_its_limit(disk, limit, bytes_each=block_bytes, **asked)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_counts_alike(disk, engine):
    at_its_limit(disk, 500, mode="randread", engine=engine, duration_ms=6_000, omit_ms=1_000)


def test_workers_with_files_of_their_own_share_the_device(disk):
    asked = {"workers": 3, "depth": 8, "file_bytes": 8 * MIB}
    at_its_limit(disk, 500, mode="randread", duration_ms=6_000, omit_ms=1_000, **asked)


def test_reads_of_a_file_that_was_never_written_are_refused(disk):
    """And rightly: the file system answers them without the device, past any limit."""
    fd = os.open(disk.directory / "unwritten", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        os.posix_fallocate(fd, 0, 32 * MIB)
        os.fsync(fd)
        with pytest.raises(UnsoundError, match="unwritten"):
            scratch.prove(fd, 32 * MIB)
        with made_group("io") as limited:
            limited.limit_iops(disk.number, 300)
            with limited.joined():
                faked = reads_a_second(fd, 32 * MIB)
    finally:
        os.close(fd)
    print(f"{faked:.0f} reads a second at a limit of 300")
    assert faked > 3000


def reads_a_second(fd, file_bytes):
    engine = Disk(fds=[fd], file_bytes=file_bytes, duration_ms=1_000)
    engine.arm()
    engine.start()
    last = engine.snapshot(engine.started_ns + 30 * 10**9)
    engine.close()
    return last.counters["reads"] / ((last.t_ns - engine.started_ns) / 1e9)


@pytest.mark.parametrize("make", [scratch.prepare, scratch.allocate])
def test_a_disk_that_is_full_keeps_nothing(small_disk, monkeypatch, make):
    monkeypatch.setattr(scratch, "FREE_SHARE", -100.0)  # the floor would refuse before the disk does
    before = small_disk.free_bytes()
    with pytest.raises(EngineError, match="No space left on device"):
        make(small_disk.directory, 64 * MIB, max_bytes=64 * MIB)
    os.sync()
    assert small_disk.free_bytes() == before
    assert [path.name for path in small_disk.directory.iterdir()] == ["lost+found"]


def test_a_device_with_sectors_of_4096_bytes_takes_no_smaller_blocks(tmp_path):
    with made_disk(tmp_path, 32 * MIB, sector_bytes=4096) as made:
        refused = execute(made.directory, duration_ms=100, file_bytes=MIB, block_bytes=512).error
        assert isinstance(refused, UsageError)
        assert f"block_bytes=512: the device under {made.directory} takes larger blocks" in str(refused)
        for mode, block_bytes in (("randread", 4096), ("wal", 512)):
            done = measure(made.directory, duration_ms=100, file_bytes=MIB, mode=mode, block_bytes=block_bytes)
            assert done.totals.get("reads", 0) + done.totals.get("writes", 0) > 0


def test_at_half_of_what_the_device_can_do_nothing_queues(disk):
    result = throttled(disk, 500, mode="randread", rate_per_s=250, duration_ms=6_000, omit_ms=1_000)
    windows = steady(result)
    means = [mean_ms(window.histograms["total_ns"]) for window in windows]
    print(f"mean total {means[0]:.2f} ms at first, {means[-1]:.2f} ms at last")
    assert iops(result) == pytest.approx(250, rel=0.01)
    assert max(means) < SLICE_MS
    assert result.totals["unstarted_operations"] <= 2


def test_beyond_what_the_device_can_do_the_queue_grows_and_is_charged(disk):
    """600 a second are meant to start and 500 end, so who ends as n-th at second t was meant to start at n / 600."""
    asked, limit, depth = 600, 500, 32
    result = throttled(disk, limit, mode="randread", rate_per_s=asked, depth=depth, duration_ms=6_000, omit_ms=1_000)
    begun_s, done, means = 0.0, 0.0, []
    for window in result.windows:
        seconds, reads = window.duration_ns / 1e9, window.counters["reads"]
        if window.phase is Phase.STEADY:
            means.append(mean_ms(window.histograms["total_ns"]))
            expected_ms = (begun_s + seconds / 2 - (done + reads / 2) / asked) * 1e3
            assert means[-1] == pytest.approx(expected_ms, abs=SLICE_MS)
        begun_s, done = begun_s + seconds, done + reads
    print(f"mean total {means[0]:.0f} ms at first, {means[-1]:.0f} ms at last")
    served = [window.histograms["service_ns"] for window in steady(result)]
    assert sum(part.sum for part in served) / sum(part.count for part in served) / 1e6 == pytest.approx(
        depth / iops(result) * 1e3, rel=0.25
    )
    assert means == sorted(means)
    assert means[-1] > 800  # 958, and less by what the throttle lets through at once at first
    assert done + result.totals["unstarted_operations"] == pytest.approx(asked * 6, abs=1)
    assert all(Flag.LATE not in window.flags for window in steady(result))  # the device's doing, not ours


def test_a_cpu_quota_is_told(tmp_path):
    with made_group("cpu") as limited:
        limited.limit_cpu(0.05)
        with limited.joined():
            result = measure(tmp_path, duration_ms=3_000, file_bytes=8 * MIB)
    assert any(Flag.THROTTLED in window.flags for window in result.windows)
    assert sum(window.counters["throttled_periods"] for window in result.windows) > 0


def test_a_noisy_neighbour_is_told(tmp_path):
    if shutil.which("stress-ng") is None:
        pytest.skip("missing stress-ng (Debian: apt-get install stress-ng)")
    measure(tmp_path, duration_ms=500, file_bytes=8 * MIB)
    noise = ["stress-ng", "--cpu", str(4 * (os.cpu_count() or 1)), "--timeout", "60", "--quiet"]
    with subprocess.Popen(noise) as neighbour:
        try:
            result = measure(tmp_path, duration_ms=3_000, file_bytes=8 * MIB)
        finally:
            neighbour.terminate()
    flags = {flag for window in result.windows for flag in window.flags}
    print(sorted(flags))
    assert flags & {Flag.STARVED, Flag.LATE}
