"""What the store reported as committed is there after a kill or a full disk, and nothing is there twice."""

import random
import signal
import subprocess
import sys
import textwrap

import pytest

from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import StreamKey
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.store.duck import DuckStore

STREAM = StreamKey("local", Endpoint("local-a", Role.POD), "boot", "start")
PREAMBLE = """
    import resource, sys
    from pathlib import Path
    from cvmprobe.errors import StoreError
    from cvmprobe.model.delivery import Batch, StreamKey
    from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
    from cvmprobe.model.histogram import Histogram
    from cvmprobe.model.window import Direction, Instance, Phase, Probe, Window
    from cvmprobe.store.duck import DuckStore

    STREAM = StreamKey("local", Endpoint("local-a", Role.POD), "boot", "start")
    DISK = Instance("lease", Probe.DISK, STREAM.endpoint, VolumeTarget("data"), Direction.NONE, 0)

    def batch(seq, buckets=50):
        latency = Histogram(buckets={index * seq % 9000: 1 for index in range(buckets)})
        return Batch(seq, tuple(
            Window(DISK, seq * 10 + k, 10**9, Phase.STEADY, {"reads": seq}, {"total_ns": latency}) for k in range(3)
        ))

    path = Path(sys.argv[1])
    store = DuckStore(path)
"""
COMMIT_FOREVER = """
    first = store.stored_seq(STREAM) + 1
    seq = max(first - 2, 1)  # what an agent sends again after an ack was lost
    while True:
        store.commit(STREAM, [batch(seq), batch(seq + 1)])
        print(seq + 1, flush=True)
        seq += 2
"""
FILL_THE_DISK = """
    limit = int(sys.argv[2])
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    seq = store.stored_seq(STREAM)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + limit, hard))
    for _ in range(5000):
        try:
            store.commit(STREAM, [batch(seq + 1, 4000)])
        except StoreError as error:
            failure = str(error)
            break
        seq += 1
    assert "\\n" not in failure, failure
    print(seq, failure, flush=True)
    for _ in range(3):  # a disk stays full for a while
        try:
            store.commit(STREAM, [batch(seq + 1, 4000)])
        except StoreError:
            continue
        raise SystemExit("the disk was not full")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    store.commit(STREAM, [batch(seq + 1, 4000)])
    print(seq + 1, flush=True)
"""


def child(script, *arguments):
    source = textwrap.dedent(PREAMBLE) + textwrap.dedent(script)
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check(path, reported):
    """Open the store again; all batches up to ``reported`` are there, whole, in order and once."""
    store = DuckStore(path)
    try:
        assert store.notice == ""
        stored = store.stored_seq(STREAM)
        assert stored >= reported
        assert [one.end_unix_ms for one in store.windows()] == [
            seq * 10 + place for seq in range(1, stored + 1) for place in range(3)
        ]
        return stored
    finally:
        store.close()


def test_a_killed_writer_loses_nothing_it_reported(tmp_path):
    path = tmp_path / "store.duckdb"
    chance = random.Random(7)
    stored = 0
    for _ in range(6):
        with child(COMMIT_FOREVER, path) as writer:
            lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 25))]
            writer.send_signal(signal.SIGKILL)
            last = (writer.stdout.read().splitlines() or lines)[-1]
            assert last, writer.stderr.read()
        before, stored = stored, check(path, int(last))
        assert stored > before


@pytest.mark.parametrize("room", [20_000, 300_000])
def test_a_full_disk_refuses_a_commit_and_harms_nothing(tmp_path, room):
    path = tmp_path / "store.duckdb"
    with child(FILL_THE_DISK, path, room) as writer:
        output, errors = writer.communicate(timeout=60)
    assert writer.returncode == 0, errors
    (before, _, failure), after = (*output.splitlines()[0].partition(" "),), output.splitlines()[1]
    assert "nothing was stored" in failure
    assert int(after) == int(before) + 1
    assert check(path, int(after)) == int(after)


def test_a_store_in_use_is_one_clear_line_and_stays_whole(tmp_path):
    path = tmp_path / "store.duckdb"
    with child(COMMIT_FOREVER, path) as writer:
        first = writer.stdout.readline()
        with pytest.raises(StoreError, match="lock"):
            DuckStore(path)
        later = [writer.stdout.readline() for _ in range(3)]
        writer.kill()
    assert int(later[-1]) > int(first)
    check(path, int(later[-1]))
