"""What leaves the store as a parquet file has plain rows, to the last bit."""

import struct

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit import strategies as some
from tests.unit.store_file import ONE, STREAM, batch, several, shared, store, window

from cvmprobe.errors import StoreError
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import ClockPair, Flag, SampleBlock
from cvmprobe.store import EVERYTHING, FOREVER

__all__ = ["shared", "store"]


class TestExport:
    def test_parquet_has_plain_rows_of_window_and_metric(self, store, tmp_path):
        histogram = Histogram(8, {100: 3, 7: 2}, 1, 0, 12, 2**127, 1, 9)
        store.commit(STREAM, [batch(1, window(5, histograms={"latency_ns": histogram}, flags=frozenset({Flag.LATE})))])
        path = tmp_path / "it's.parquet"
        assert store.export_windows(path, EVERYTHING, FOREVER) == 2
        rows = duckdb.connect().execute(
            "SELECT node, metric, value, flags, parameters, bucket_indices, bucket_counts, value_sum_squares"
            " FROM read_parquet(?) ORDER BY metric",
            [str(path)],
        )
        assert rows.fetchall() == [
            ("local-a", "latency_ns", None, "late", '{"wait":"block"}', [100, 7], [3, 2], str(2**127)),
            ("local-a", "transactions", 1, "late", '{"wait":"block"}', None, None, None),
        ]

    @several
    @given(
        rows=st.lists(
            st.tuples(some.u64, some.u32, st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**16 - 1)),
            max_size=6,
        ),
        clock=st.builds(ClockPair, monotonic_ns=some.u64, unix_ns=some.u64),
        lost=some.u64,
    )
    def test_samples_are_decoded_to_the_last_bit(self, shared, tmp_path_factory, rows, clock, lost):
        shared.prune(2**62, 2**63)
        path = tmp_path_factory.mktemp("samples") / "samples.parquet"
        packed = b"".join(struct.pack("<QIBBH", *row) for row in rows)
        shared.add_samples(STREAM, SampleBlock(ONE, clock, packed, lost))
        assert shared.export_samples(path, EVERYTHING, FOREVER) == (len(rows), lost)
        found = duckdb.connect().execute(
            "SELECT t_ns, value_ns, kind, flags, aux, t_unix_ns, lost_before FROM read_parquet(?)", [str(path)]
        )
        wall = [clock.unix_ns + row[0] - clock.monotonic_ns for row in rows]
        assert found.fetchall() == [
            (*row, unix if 0 <= unix < 2**64 else None, 0 if place else lost)
            for place, (row, unix) in enumerate(zip(rows, wall, strict=True))
        ]

    def test_samples_of_a_large_block_keep_their_order(self, store, tmp_path):
        packed = b"".join(struct.pack("<QIBBH", 10**9 + place, place, 1, 0, 0) for place in range(20_000))
        store.add_samples(STREAM, SampleBlock(ONE, ClockPair(10**9, 10**18), packed, 3))
        assert store.export_samples(tmp_path / "samples.parquet", EVERYTHING, FOREVER) == (20_000, 3)
        found = duckdb.connect().execute(
            "SELECT value_ns, t_unix_ns - 1000000000000000000, sum(lost_before) OVER () FROM read_parquet(?)",
            [str(tmp_path / "samples.parquet")],
        )
        assert found.fetchall() == [(place, place, 3) for place in range(20_000)]

    def test_half_a_sample_is_refused(self, store):
        with pytest.raises(StoreError, match="17 bytes"):
            store.add_samples(STREAM, SampleBlock(ONE, ClockPair(0, 0), bytes(17), 0))
