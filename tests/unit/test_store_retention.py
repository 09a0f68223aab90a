"""The store forgets what is too old or too much, the cheapest first."""

import random
from dataclasses import replace

from tests.unit.store_file import ONE, STREAM, batch, ends, store

from cvmprobe.model.delivery import Gap, Hello
from cvmprobe.model.environment import Confidence, Environment, TeeKind, TeeVerdict
from cvmprobe.model.window import ClockPair, SampleBlock
from cvmprobe.store.duck import DuckStore

__all__ = ["store"]

NOBODY = TeeVerdict(TeeKind.NONE, None, None, Confidence.LOW, ())


def put(store, stream):
    store.put_node(stream, Hello("1", stream.endpoint, stream.boot_id, stream.start_id, 1, 0, Environment((), NOBODY)))


def clocks(store):
    found = store._rows("SELECT DISTINCT unix_ns FROM store.samples ORDER BY unix_ns", [])
    return [clock for (clock,) in found]


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

    def test_starts_that_are_over_and_have_nothing_left_are_forgotten_but_for_the_newest(self, store):
        starts = [replace(STREAM, start_id=name) for name in ("said bye", "killed", "lives", "has windows", "newest")]
        said_bye, killed, lives, has_windows, newest = starts
        for start in starts:
            put(store, start)
        store.commit(has_windows, [batch(9)])
        store.commit(said_bye, [batch(1)])
        store.end_stream(said_bye, 1)
        for start, since_ms in ((killed, 2), (has_windows, 2), (newest, 2)):
            store.open_gap(Gap(start, 1, None, "no Bye", since_ms))
        store.prune(2, 2**63)
        assert {gap.stream for gap in store.gaps()} == {killed, has_windows, newest}
        assert store.account(said_bye).numbered is None, "forgotten: it ended, and its window was too old"
        store.prune(3, 2**63)
        assert {gap.stream for gap in store.gaps()} == {has_windows, newest}
        store.commit(lives, [batch(7)])
        put(store, replace(STREAM, start_id="later"))
        store.close()
        again = DuckStore(store.path)
        assert again.stored_seq(has_windows) == 0
        assert again.account(has_windows).stored == again.account(lives).stored == 1
        assert again.account(said_bye).stored == 0
        assert len(again._streams) == len({state.number for state in again._streams.values()}) == 4
        again.close()
