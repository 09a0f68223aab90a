"""The store forgets what is too old or too much, the cheapest first."""

import random

from tests.unit.store_file import ONE, STREAM, batch, ends, store

from cvmprobe.model.window import ClockPair, SampleBlock

__all__ = ["store"]


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
