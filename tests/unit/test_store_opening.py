"""A store opens: what is damaged or another's is put aside, what is good never."""

import random
from pathlib import Path

import duckdb
import pytest
from tests.unit.store_file import STREAM, batch, ends, reopened, store, window

from cvmprobe.errors import StoreError
from cvmprobe.model.histogram import Histogram
from cvmprobe.store.duck import DuckStore

__all__ = ["store"]


class TestOpening:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda good: b"",
            lambda good: b"no database" * 1000,
            lambda good: good[: len(good) // 2],
            lambda good: good[:-1000],
            lambda good: bytes([good[0] ^ 1]) + good[1:],
            lambda good: good[:5000] + b"damaged" + good[5007:],
        ],
    )
    def test_a_damaged_file_is_put_aside_and_a_new_store_begins(self, store, damage):
        store.commit(STREAM, [batch(seq) for seq in range(1, 50)])
        store.close()
        damaged = damage(store.path.read_bytes())
        store.path.write_bytes(damaged)
        again = DuckStore(store.path)
        aside = store.path.with_name("store.duckdb.unreadable-1")
        assert aside.read_bytes() == damaged
        assert aside.name in again.notice
        assert "\n" not in again.notice
        assert Path(f"{aside}.txt").read_text(encoding="utf-8").strip() in again.notice
        again.commit(STREAM, [batch(1)])
        assert ends(reopened(again)) == [1]

    def test_damage_anywhere_is_found_at_the_latest_by_the_start_after_it_was_met(self, store):
        noise = random.Random(5)
        for seq in range(1, 30):
            wide = Histogram(buckets={index: noise.getrandbits(60) + 1 for index in noise.sample(range(9000), 300)})
            store.commit(STREAM, [batch(seq, *(window(seq, histograms={"latency_ns": wide}) for _ in range(9)))])
        store.close()
        good = store.path.read_bytes()
        for place in range(13_000, len(good), len(good) // 5):
            damaged = bytearray(good)
            damaged[place] ^= 16
            path = store.path.with_name(f"damaged-{place}.duckdb")
            path.write_bytes(damaged)
            first = DuckStore(path)
            met = first.notice
            try:
                whole = len(ends(first)) == 29 * 9
            except StoreError:
                whole = False
            first.commit(STREAM, [batch(first.stored_seq(STREAM) + 1)])
            again = reopened(first)
            assert whole or met or "put aside" in again.notice
            again.commit(STREAM, [batch(again.stored_seq(STREAM) + 1)])
            assert ends(again)
            again.close()

    def test_another_programs_database_is_put_aside(self, tmp_path):
        other = duckdb.connect(str(tmp_path / "store.duckdb"))
        other.execute("CREATE TABLE theirs (i INTEGER)")
        other.close()
        store = DuckStore(tmp_path / "store.duckdb")
        assert "another program" in store.notice
        store.close()

    def test_a_later_versions_database_is_put_aside(self, store):
        store.close()
        other = duckdb.connect(str(store.path))
        other.execute("UPDATE about SET schema_version = 99")
        other.close()
        assert "99" in DuckStore(store.path).notice

    def test_a_good_file_is_never_put_aside(self, store):
        again = reopened(store)
        assert again.notice == ""
        assert [path.name for path in store.path.parent.iterdir() if "unreadable" in path.name] == []

    def test_a_database_that_broke_down_is_opened_anew_by_the_next_call(self, store):
        store.commit(STREAM, [batch(1)])
        store._connection.close()  # as after an error DuckDB calls fatal: every statement fails from then on
        with pytest.raises(StoreError, match="nothing was stored"):
            store.commit(STREAM, [batch(2)])
        store.commit(STREAM, [batch(2)])
        assert ends(store) == [1, 2]

    def test_a_folder_that_is_not_there_is_one_clear_line(self, tmp_path):
        with pytest.raises(StoreError, match="No such file"):
            DuckStore(tmp_path / "nowhere" / "store.duckdb")

    def test_a_closed_store_says_so(self, store):
        store.close()
        store.close()
        with pytest.raises(StoreError, match="is closed"):
            store.commit(STREAM, [batch(1)])
        with pytest.raises(StoreError, match="is closed"):
            next(store.windows())
