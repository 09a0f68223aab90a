"""Which datagrams arrived, held against a set of numbers and the pseudocode of RFC 3550."""

from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.native.udp_sequence import KNOWN, Arrivals

FARTHEST_JUMP = 1 << 32


class SlowArrivals:
    """The tracker again: a set, and no ring."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.counts = dict.fromkeys(("next", "unique", "duplicates", "reordered", "reorder_extent", "stale"), 0)

    def take(self, number: int) -> int:
        counts = self.counts
        jumped = max(number - counts["next"], 0)
        behind = counts["next"] - 1 - number
        if behind >= KNOWN or jumped >= FARTHEST_JUMP:
            counts["stale"] += 1
            return 0
        if number in self.seen:
            counts["duplicates"] += 1
            return 0
        self.seen.add(number)
        counts["unique"] += 1
        if behind >= 0:
            counts["reordered"] += 1
            counts["reorder_extent"] = max(counts["reorder_extent"], behind)
        counts["next"] = max(counts["next"], number + 1)
        return jumped


def assert_same(numbers) -> None:
    ours, slow = Arrivals(), SlowArrivals()
    assert [ours.take(number) for number in numbers] == [slow.take(number) for number in numbers]
    assert {name: value for name, value in ours.counts.items() if name != "jitter_ns"} == slow.counts


@st.composite
def disturbed_flows(draw) -> list[int]:
    """A flow in order, then some lost, some swapped, some again; from a base at which words or the ring begin anew."""
    base = draw(st.sampled_from([0, 1, 63, 64, KNOWN - 1, KNOWN, KNOWN + 64, 5 * (KNOWN + 64) - 7, (1 << 32) - 100]))
    flow = [base + offset for offset in range(draw(st.integers(1, 400)))]
    for at in draw(st.lists(st.integers(0, 399), max_size=20)):
        del flow[at % len(flow) : at % len(flow) + draw(st.integers(0, 70))]
        flow = flow or [base]
    for from_, to in draw(st.lists(st.tuples(st.integers(0, 399), st.integers(0, 399)), max_size=20)):
        flow.insert(to % len(flow), flow.pop(from_ % len(flow)))
    for at, to in draw(st.lists(st.tuples(st.integers(0, 399), st.integers(0, 399)), max_size=20)):
        flow.insert(to % len(flow), flow[at % len(flow)])
    return flow


@given(disturbed_flows())
def test_a_disturbed_flow_is_counted_as_a_set_counts_it(flow):
    assert_same(flow)


EDGES = sorted(
    edge + offset
    for edge in (0, 64, KNOWN, KNOWN + 64, 2 * (KNOWN + 64), 1 << 32, (1 << 33) + 7)
    for offset in range(-2, 3)
    if edge + offset >= 0
)


@given(st.lists(st.one_of(st.sampled_from([*EDGES, (1 << 64) - 1]), st.integers(0, 3 * KNOWN)), max_size=60))
def test_jumps_over_the_edges_of_words_and_ring_are_counted_as_a_set_counts_them(numbers):
    assert_same(numbers)


def test_a_flow_longer_than_the_ring_leaves_nothing_behind():
    assert_same([*range(100), *range(KNOWN + 64, KNOWN + 164), *range(100, 200), *range(KNOWN + 300, KNOWN + 400)])
    assert_same([number for number in range(3 * KNOWN) if number % 3])


def test_what_it_cannot_tell_is_stale_and_stays_lost():
    arrivals = Arrivals()
    for number in (0, KNOWN + 5, 0, 6, 5, 5):
        arrivals.take(number)
    assert arrivals.counts["unique"] == 3
    assert arrivals.counts["stale"] == 3
    assert arrivals.counts["reorder_extent"] == KNOWN - 1
    arrivals.take((1 << 64) - 1)
    assert arrivals.counts["stale"] == 4
    assert arrivals.counts["next"] == KNOWN + 6


def slow_jitter(times) -> int:
    """RFC 3550 A.8, in integers of any size; the transit time is known modulo 2^32, so a change is under 2^31."""
    sixteenfold, before = 0, None
    for sent, received in times:
        transit = received - sent
        if before is not None:
            change = (transit - before + (1 << 31)) % (1 << 32) - (1 << 31)
            sixteenfold += abs(change) - ((sixteenfold + 8) >> 4)
        before = transit
    return sixteenfold >> 4


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 33)), max_size=80),
    st.integers(0, (1 << 32) - 1),
)
def test_jitter_is_that_of_the_standard_whatever_the_clocks_are_apart(gaps, apart):
    times, sent = [], 0
    for gap, delay in gaps:
        sent += gap
        times.append((sent, sent + delay + apart))
    ours = Arrivals()
    for sent, received in times:
        ours.time(sent % (1 << 32), received % (1 << 32))
    assert ours.counts["jitter_ns"] == slow_jitter(times)


def test_an_even_flow_has_no_jitter():
    arrivals = Arrivals()
    for number in range(1000):
        arrivals.time(number * 5_000_000 % (1 << 32), (number * 5_000_000 + 123_456) % (1 << 32))
    assert arrivals.counts["jitter_ns"] == 0
