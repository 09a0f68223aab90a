"""The store gives back exactly what it took, once, in order, and says what is missing."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit import strategies as some
from tests.unit.store_file import ONE, STREAM, batch, ends, reopened, several, shared, store, window

from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import Batch, Gap, StreamKey
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.endpoint import Path as Joint
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.query import Selection, TimeRange
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import ClockPair, Direction, Flag, Probe, SampleBlock
from cvmprobe.store import EVERYTHING

__all__ = ["shared", "store"]

streams = st.builds(StreamKey, cluster=some.names, endpoint=some.endpoints, boot_id=some.names, start_id=some.names)


def of(stream, one):
    return dataclasses.replace(one, instance=dataclasses.replace(one.instance, source=stream.endpoint))


class TestRoundTrip:
    @several
    @given(stream=streams, windows=st.lists(some.windows, min_size=1, max_size=4))
    def test_any_window_comes_back_equal(self, shared, stream, windows):
        own = [of(stream, one) for one in windows]
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

    def test_of_many_gaps_each_is_kept_filled_and_split_apart(self, store):
        for first in range(2, 40, 4):
            store.open_gap(Gap(STREAM, first, first + 2, "skipped", first))
        store.commit(STREAM, [batch(3), batch(6), batch(16)])  # in the middle, at the edge, at the end
        store.open_gap(Gap(STREAM, 41, None, "no Bye", 9))
        here = store.gaps()
        assert len(here) == 10 + 1 + 1
        again = reopened(store)
        assert again.gaps() == here
        again.close_gap(STREAM)
        again.commit(STREAM, [batch(2), batch(4)])
        left = again.gaps()
        assert len(left) == 9
        assert reopened(again).gaps() == left

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
