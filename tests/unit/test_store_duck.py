"""The store gives back exactly what it took, once, in order, and says what is missing."""

import dataclasses
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit import strategies as some

from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import Batch, Gap, StreamKey
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Role, VolumeTarget
from cvmprobe.model.endpoint import Path as Joint
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.query import Selection, TimeRange
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import ClockPair, Direction, Flag, Instance, Phase, Probe, SampleBlock, Window
from cvmprobe.store import EVERYTHING, FOREVER
from cvmprobe.store.duck import DuckStore

STREAM = StreamKey("local", Endpoint("local-a", Role.POD), "boot", "start")
ONE = Instance(
    "lease-1",
    Probe.TCP_RR,
    STREAM.endpoint,
    EndpointTarget(Endpoint("local-b", Role.POD), Joint.INTER_NODE),
    Direction.FORWARD,
    0,
    {"wait": "block"},
)
several = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
streams = st.builds(StreamKey, cluster=some.names, endpoint=some.endpoints, boot_id=some.names, start_id=some.names)


def window(end_unix_ms=1, instance=ONE, **rest):
    return Window(instance, end_unix_ms, 10**9, Phase.STEADY, **({"counters": {"transactions": 1}} | rest))


def batch(seq, *windows):
    return Batch(seq, windows or (window(seq),))


def of(stream, one):
    return dataclasses.replace(one, instance=dataclasses.replace(one.instance, source=stream.endpoint))


def ends(store, *asked):
    return [one.end_unix_ms for one in store.windows(*asked)]


@pytest.fixture
def store(tmp_path):
    with_file = DuckStore(tmp_path / "store.duckdb")
    yield with_file
    with_file.close()


def clocks(store):
    found = store._rows("SELECT DISTINCT unix_ns FROM store.samples ORDER BY unix_ns", [])
    return [clock for (clock,) in found]


def reopened(store):
    store.close()
    return DuckStore(store.path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    store = DuckStore(tmp_path_factory.mktemp("store") / "store.duckdb")
    yield store
    store.close()


class TestRoundTrip:
    @several
    @given(stream=streams, windows=st.lists(some.windows, min_size=1, max_size=4))
    def test_any_window_comes_back_equal(self, shared, stream, windows):
        own = [
            dataclasses.replace(one, instance=dataclasses.replace(one.instance, source=stream.endpoint))
            for one in windows
        ]
        shared.commit(stream, [Batch(shared.stored_seq(stream) + 1, tuple(own))])
        found = list(shared.windows(Selection(nodes=(stream.endpoint.node,))))
        for one in own:
            assert one in found
        assert [one.end_unix_ms for one in found] == sorted(one.end_unix_ms for one in found)

    def test_an_agent_speaks_for_itself_alone(self, store):
        posing = dataclasses.replace(ONE, source=Endpoint("local-b", Role.POD))
        with pytest.raises(StoreError, match="local-a/pod reports as local-b/pod"):
            store.commit(STREAM, [batch(1, window(1, posing))])
        with pytest.raises(StoreError, match="local-a/pod reports as local-b/pod"):
            store.add_samples(STREAM, SampleBlock(posing, ClockPair(0, 0), bytes(16), 0))
        assert list(store.windows()) == []

    def test_extremes_are_kept_to_the_last_bit(self, store):
        top = Histogram(8, {0: 2**64 - 1, 9472: 1}, 2**64 - 1, 2**64 - 1, 2**64 - 1, 2**128 - 1, 0, 2**64 - 1)
        widest = window(2**64 - 1, counters={"sent_bytes": 2**64 - 1, "none": 0}, histograms={"latency_ns": top})
        store.commit(STREAM, [batch(1, widest)])
        assert list(reopened(store).windows()) == [widest]

    def test_a_window_without_any_metric_is_kept(self, store):
        empty = window(5, counters={}, flags=frozenset({Flag.ERROR, Flag.CUT}), facts={"engine": "libaio"})
        store.commit(STREAM, [batch(1, empty, window(6), empty)])
        assert list(store.windows()) == [empty, empty, window(6)]

    def test_a_value_beyond_its_column_is_refused_whole(self, store):
        with pytest.raises(StoreError, match=r"nothing was stored.*out of range"):
            store.commit(STREAM, [batch(1), batch(2, window(2, counters={"sent_bytes": 2**64}))])
        assert list(store.windows()) == []
        assert store.stored_seq(STREAM) == 0
        store.commit(STREAM, [batch(1)])
        assert ends(store) == [1]

    @several
    @given(run=some.runs)
    def test_any_run_comes_back_equal(self, shared, run):
        shared.put_run(run)
        assert [one for one in shared.runs() if one.run_id == run.run_id] == [run]

    @several
    @given(cluster=some.names, hello=some.hellos)
    def test_any_node_comes_back_equal(self, shared, cluster, hello):
        stream = StreamKey(cluster, hello.endpoint, hello.boot_id, hello.start_id)
        shared.put_node(stream, hello)
        assert shared.nodes()[stream] == hello


class TestDelivery:
    def test_a_batch_given_twice_is_stored_once(self, store):
        store.commit(STREAM, [batch(1), batch(2), batch(2)])
        store.commit(STREAM, [batch(2), batch(3)])
        again = reopened(store)
        again.commit(STREAM, [batch(1), batch(3)])
        assert ends(again) == [1, 2, 3]
        assert again.account(STREAM).stored == 3

    def test_streams_do_not_share_numbers(self, store):
        other = dataclasses.replace(STREAM, start_id="later")
        store.commit(STREAM, [batch(1)])
        store.commit(other, [batch(1), batch(2)])
        assert (store.stored_seq(STREAM), store.stored_seq(other)) == (1, 2)
        assert ends(store) == [1, 1, 2]

    def test_only_what_has_no_hole_before_it_may_be_acked(self, store):
        store.commit(STREAM, [batch(1), batch(3)])
        assert store.stored_seq(STREAM) == 1
        store.commit(STREAM, [batch(2)])
        assert reopened(store).stored_seq(STREAM) == 3

    def test_batches_are_numbered_from_one(self, store):
        with pytest.raises(StoreError, match="begin at 1"):
            store.commit(STREAM, [batch(0)])

    def test_a_declared_loss_is_a_row_and_may_be_passed(self, store):
        store.commit(STREAM, [batch(1), batch(4)])
        store.open_gap(Gap(STREAM, 1, 3, "spool full", 7))
        assert store.gaps() == (Gap(STREAM, 2, 3, "spool full", 7),)
        again = reopened(store)
        assert again.gaps() == (Gap(STREAM, 2, 3, "spool full", 7),)
        assert again.stored_seq(STREAM) == 4

    def test_a_stream_without_bye_leaves_a_gap_of_unknown_size_until_it_is_back(self, store):
        store.commit(STREAM, [batch(1)])
        store.open_gap(Gap(STREAM, 2, None, "connection lost", 7))
        again = reopened(store)
        assert [(gap.first_seq, gap.lost) for gap in again.gaps()] == [(2, None)]
        assert again.account(STREAM).lost is None
        again.close_gap(STREAM)
        assert reopened(again).gaps() == ()

    def test_numbered_is_stored_and_pending_and_lost(self, store):
        store.commit(STREAM, [batch(1), batch(2)])
        assert store.account(STREAM).pending is None
        store.open_gap(Gap(STREAM, 4, 5, "spool full", 7))
        store.end_stream(STREAM, 9)
        account = reopened(store).account(STREAM)
        assert (account.numbered, account.stored, account.pending, account.lost) == (9, 2, 5, 2)

    def test_a_stream_never_seen_has_nothing(self, store):
        account = store.account(STREAM)
        assert (account.stored_seq, account.stored, account.lost, account.numbered) == (0, 0, 0, None)
        store.close_gap(STREAM)
        assert store.gaps() == ()


VOLUME = dataclasses.replace(
    ONE, assignment_id="lease-2", probe=Probe.DISK, target=VolumeTarget("data"), direction=Direction.NONE
)


class TestQueries:
    @pytest.fixture
    def two(self, store):
        there = dataclasses.replace(STREAM, endpoint=Endpoint("local-b", Role.POD))
        store.commit(STREAM, [batch(1, window(30), window(10, VOLUME))])
        store.commit(there, [batch(1, window(20, dataclasses.replace(VOLUME, source=there.endpoint)))])
        return store

    @pytest.mark.parametrize(
        ("selection", "found"),
        [
            (EVERYTHING, [10, 20, 30]),
            (Selection(nodes=("local-a",)), [10, 30]),
            (Selection(nodes=("local-a", "local-b"), probes=(Probe.DISK,)), [10, 20]),
            (Selection(paths=(Joint.INTER_NODE,)), [30]),
            (Selection(targets=("volume:data",)), [10, 20]),
            (Selection(targets=("nowhere",)), []),
            (Selection(run_id="no such run"), []),
        ],
    )
    def test_a_selection_finds_what_it_names(self, two, selection, found):
        assert ends(two, selection) == found

    def test_a_range_holds_its_start_and_not_its_end(self, two):
        assert ends(two, EVERYTHING, TimeRange(10, 30)) == [10, 20]
        assert ends(two, EVERYTHING, TimeRange(11, None)) == [20, 30]

    def test_a_run_has_the_windows_of_its_leases(self, two):
        record = LeaseRecord("lease-2", "randread", VOLUME, "done", "", {})
        two.put_run(Run("run-1", "quick", 1.0, RunState.DONE, 0, 40, Cost(1.0, 0, 0), 1, (record,)))
        assert ends(two, Selection(run_id="run-1")) == [10, 20]
        assert ends(two, Selection(run_id="run-1", nodes=("local-b",))) == [20]

    def test_a_reader_sees_one_state_while_the_writer_goes_on(self, two):
        reader = two.windows()
        first = next(reader)
        two.commit(STREAM, [batch(2, window(25))])
        two.prune(28, 2**63)
        assert [first.end_unix_ms, *(one.end_unix_ms for one in reader)] == [10, 20, 30]
        assert ends(two) == [30]

    def test_readers_in_other_threads_see_whole_commits_only(self, store):
        store.commit(STREAM, [batch(1, window(1), window(2))])

        def read(_):
            return [ends(store) for _ in range(5)]

        with ThreadPoolExecutor(3) as pool:
            readings = pool.map(read, range(3))
            for seq in range(2, 20):
                store.commit(STREAM, [batch(seq, window(2 * seq - 1), window(2 * seq))])
            seen = [found for reading in readings for found in reading]
        assert all(found == list(range(1, len(found) + 1)) and len(found) % 2 == 0 for found in seen)
        assert ends(store) == list(range(1, 39))

    def test_runs_are_listed_latest_first_and_replaced_by_id(self, store):
        early = Run("run-1", "quick", 1.0, RunState.RUNNING, 5, None, Cost(1.0, 0, 0), 1)
        late = dataclasses.replace(early, run_id="run-2", started_unix_ms=6)
        ended = dataclasses.replace(early, state=RunState.DONE)
        for run in (early, late, ended):
            store.put_run(run)
        assert reopened(store).runs() == (late, ended)


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


class TestRetention:
    def test_what_is_too_old_goes(self, store):
        store.commit(STREAM, [batch(seq) for seq in range(1, 6)])
        for unix_ms in (2, 3, 4):
            store.add_samples(STREAM, SampleBlock(ONE, ClockPair(0, unix_ms * 10**6), bytes(16), 0))
        assert store.prune(3, 2**63) == 3
        assert ends(store) == [3, 4, 5]
        assert clocks(store) == [3_000_000, 4_000_000]

    def test_what_was_pruned_is_not_stored_again(self, store):
        store.commit(STREAM, [batch(1)])
        store.prune(9, 2**63)
        store.commit(STREAM, [batch(1)])
        assert ends(store) == []
        assert store.stored_seq(STREAM) == 1

    def test_size_takes_samples_first_and_the_oldest_first(self, store):
        store.commit(STREAM, [batch(seq) for seq in range(1, 6)])
        noise = random.Random(1).randbytes(2**20)
        for age in range(24):
            store.add_samples(STREAM, SampleBlock(ONE, ClockPair(0, age), noise, 0))
        store.prune(0, 16 * 2**20)
        kept = set(clocks(store))
        assert kept == set(range(24 - len(kept), 24))
        assert 4 < len(kept) < 16
        assert ends(store) == [1, 2, 3, 4, 5]

    def test_a_store_that_must_be_tiny_loses_the_oldest_windows(self, store):
        store.commit(STREAM, [batch(seq) for seq in range(1, 100)])
        store.prune(0, 0)
        assert ends(store) == []
        store.commit(STREAM, [batch(100)])
        assert ends(store) == [100]


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
