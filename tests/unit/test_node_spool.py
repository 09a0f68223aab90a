"""The spool keeps what it took across kill -9, gives back nothing that was changed, and stays within its bytes."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cvmprobe.model.delivery import Hello
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.model.environment import Confidence, Environment, Fact, TeeKind, TeeVerdict
from cvmprobe.node.spool import DAMAGED, Row, Spool, SpoolError, files

MANY = 1 << 24
HELLO = Hello(
    version="1",
    endpoint=Endpoint("a", Role.POD),
    boot_id="b",
    start_id="s",
    responder_port=1,
    probe_service_port=2,
    environment=Environment(
        (Fact("kernel", "6", "uname"), Fact("cpu", None, "unreadable")),
        TeeVerdict(TeeKind.NONE, None, None, Confidence.HIGH, ("none",)),
    ),
)


def body(seq: int) -> bytes:
    return seq.to_bytes(4, "little") * 300


def read_all(spool: Spool) -> list[Row]:
    rows: list[Row] = []
    while (row := spool.after(rows[-1].seq if rows else 0)) is not None:
        rows.append(row)
    return rows


def filled(path: Path | None, count: int) -> Spool:
    spool = Spool(path, MANY)
    spool.introduce(HELLO)
    for seq in range(1, count + 1):
        assert spool.put(Row(seq, body(seq))) == []
    return spool


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_was_put_comes_back_in_order_until_it_is_forgotten(tmp_path: Path, in_memory: bool):
    spool = filled(None if in_memory else tmp_path / "s.sqlite", 5)
    assert read_all(spool) == [Row(seq, body(seq)) for seq in range(1, 6)]
    spool.forget(3)
    assert [row.seq for row in read_all(spool)] == [4, 5]
    assert (spool.pending, spool.acked, spool.last_seq) == (2, 3, 5)
    spool.close()
    spool.close()


def test_a_later_process_finds_all_of_it(tmp_path: Path):
    path = tmp_path / "s.sqlite"
    spool = filled(path, 4)
    spool.forget(1)
    assert not spool.ended
    spool.end()
    spool.close()
    again = Spool(path, MANY)
    assert (again.pending, again.acked, again.last_seq, again.ended) == (3, 1, 4, True)
    assert again.hello == HELLO
    assert [row.seq for row in read_all(again)] == [2, 3, 4]
    again.remove()
    assert not any(file.exists() for file in files(path))


def test_the_oldest_make_room_and_are_named(tmp_path: Path):
    spool = Spool(tmp_path / "s.sqlite", 10_000)
    dropped = [number for seq in range(1, 21) for number in spool.put(Row(seq, bytes(2_000)))]
    assert dropped == list(range(1, 17))
    assert [row.seq for row in read_all(spool)] == [17, 18, 19, 20]
    spool.close()


def test_the_file_stays_bounded_however_much_goes_through(tmp_path: Path):
    path = tmp_path / "s.sqlite"
    spool = Spool(path, 200_000)
    for seq in range(1, 1_001):
        spool.put(Row(seq, bytes(10_000)))
    spool.close()
    assert path.stat().st_size < 400_000


def test_a_living_owner_keeps_others_out(tmp_path: Path):
    spool = filled(tmp_path / "s.sqlite", 1)
    with pytest.raises(SpoolError) as refused:
        Spool(tmp_path / "s.sqlite", MANY)
    assert refused.value.busy
    assert not refused.value.damaged
    spool.close()


def test_no_spool_where_no_file_can_be(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot open spool") as refused:
        Spool(tmp_path / "file" / "s.sqlite", MANY)
    assert not refused.value.busy


def test_a_full_disk_refuses_and_leaves_what_was_there(tmp_path: Path):
    spool = filled(tmp_path / "s.sqlite", 2)
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SpoolError, match="full") as refused:
        spool.put(Row(3, bytes(100_000)))
    assert not refused.value.damaged
    assert [row.seq for row in read_all(spool)] == [1, 2]
    assert (spool.pending, spool.last_seq) == (2, 2)
    spool._db.execute("PRAGMA max_page_count = 100000")
    spool.put(Row(3, b"x"))
    assert [row.seq for row in read_all(spool)] == [1, 2, 3]
    spool.close()


def test_a_changed_row_is_not_given_back(tmp_path: Path):
    path = tmp_path / "s.sqlite"
    filled(path, 3).close()
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE batches SET body = x'00' WHERE seq = 2")
        database.execute("UPDATE batches SET seq = 9 WHERE seq = 3")
    database.close()
    spool = Spool(path, MANY)
    assert [row.seq for row in read_all(spool)] == [1]
    spool.close()


def test_quarantine_keeps_one_file(tmp_path: Path):
    for seq in (1, 2):
        spool = Spool(tmp_path / f"s{seq}.sqlite", MANY)
        spool.put(Row(seq, body(seq)))
        spool.quarantine()
    assert [file.name for file in tmp_path.iterdir()] == [DAMAGED]
    aside = Spool(tmp_path / DAMAGED, MANY)
    assert [row.seq for row in read_all(aside)] == [2]
    aside.close()


WRITER = textwrap.dedent("""
    import sys, pathlib
    from cvmprobe.node.spool import Row, Spool
    spool = Spool(pathlib.Path(sys.argv[1]), 1 << 24)
    for seq in range(1, 1_000_000):
        spool.put(Row(seq, seq.to_bytes(4, "little") * 300))
        print(seq, flush=True)
        if seq % 7 == 0:
            spool.forget(seq - 3)
""")


@pytest.mark.parametrize("after", [1, 6, 7, 8, 23, 50])
def test_kill_9_loses_nothing_that_was_put(tmp_path: Path, after: int):
    path = tmp_path / "s.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        seen = 0
        while seen < after:
            seen = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        seen = int(([str(seen), *child.stdout.read().split()])[-1])
    spool = Spool(path, MANY)
    rows = read_all(spool)
    assert spool.last_seq >= seen
    assert rows == [Row(seq, body(seq)) for seq in range(spool.acked + 1, spool.last_seq + 1)]
    spool.close()


def damaged_copies(path: Path) -> list[bytes]:
    whole = path.read_bytes()
    cut = [whole[:length] for length in (0, 1, 15, 16, 100, 512, 4_095, 4_096, 5_000, 8_192, len(whole) // 2)]
    flipped = []
    for place in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        flipped.append(bytes(changed))
    return cut + flipped


def test_a_damaged_file_never_lies_and_never_raises_anything_else(tmp_path: Path):
    source = tmp_path / "source.sqlite"
    filled(source, 12).close()
    outcomes = set()
    for number, copy in enumerate(damaged_copies(source)):
        path = tmp_path / f"{number}.sqlite"
        path.write_bytes(copy)
        try:
            spool = Spool(path, MANY)
        except SpoolError:
            outcomes.add("refused")
            continue
        try:
            rows = read_all(spool)
            assert all(row.body == body(row.seq) for row in rows)
            assert spool.last_seq in (0, 12)
            assert spool.hello in (None, HELLO)
            outcomes.add("whole" if len(rows) == 12 else "partial")
        except SpoolError:
            outcomes.add("refused")
        finally:
            spool.remove()
    assert outcomes == {"refused", "whole", "partial"}
