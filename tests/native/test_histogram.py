"""The histogram against an exact oracle: every bucket boundary, merging, subtracting, coarser schemas."""

import threading
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.native import oracle

from cvmprobe.native.histogram import BUCKETS, SCHEMA, Histogram, bucket_upper

U64_MAX = 2**64 - 1

values = st.one_of(
    st.integers(0, 2000),
    st.integers(0, 2**40),
    st.integers(0, BUCKETS - 1).map(bucket_upper),
    st.integers(0, BUCKETS - 1).map(lambda i: bucket_upper(i) + 1),
    st.integers(0, 2**60),
)
lists = st.lists(values, max_size=60)


def recorded(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    histogram.record_many(array("Q", numbers))
    return histogram


def buckets(histogram: Histogram) -> dict[int, int]:
    return dict(zip(*histogram.sparse(), strict=True))


def everything(histogram: Histogram) -> tuple[object, ...]:
    return (
        buckets(histogram),
        histogram.zero,
        histogram.overflow,
        histogram.sum,
        histogram.sum_squares,
        histogram.minimum,
        histogram.maximum,
    )


def test_both_sides_of_every_boundary_fall_where_exact_integers_say():
    assert (SCHEMA, BUCKETS) == (8, 9473)
    checked = 0
    for bucket in range(BUCKETS):
        bound = oracle.upper(bucket)
        sides = [bound] if bucket == BUCKETS - 1 else [bound, bound + 1]
        for value in sides:
            histogram = Histogram()
            histogram.record(value)
            assert buckets(histogram) == {oracle.index(value): 1}, f"value {value} beside bucket {bucket}"
            checked += 1
        assert bucket_upper(bucket) == bound
    assert checked == 2 * 9473 - 1


def test_the_ends_of_the_range_have_their_own_places():
    histogram = recorded([0, 1, 2**37, 2**37 + 1, U64_MAX])
    assert (histogram.zero, histogram.overflow) == (1, 2)
    assert buckets(histogram) == {0: 1, 9472: 1}
    assert (histogram.minimum, histogram.maximum, histogram.count) == (0, U64_MAX, 5)


def test_an_empty_histogram_has_no_extremes():
    assert everything(Histogram()) == ({}, 0, 0, 0, 0, None, None)
    assert Histogram().count == 0


def test_a_bucket_beyond_the_last_is_refused():
    with pytest.raises(IndexError, match="9473"):
        bucket_upper(BUCKETS)


@pytest.mark.parametrize("value", [-1, U64_MAX + 1])
def test_a_value_that_is_no_u64_is_refused(value):
    with pytest.raises(OverflowError):
        Histogram().record(value)


@pytest.mark.parametrize("wrong", [array("d", [1.0]), array("I", [1]), b"12345678"])
def test_a_buffer_of_anything_but_u64_is_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        Histogram().record_many(wrong)


@given(lists)
def test_it_counts_what_a_slow_oracle_counts(numbers):
    histogram = recorded(numbers)
    assert buckets(histogram) == oracle.buckets(numbers)
    assert histogram.zero == numbers.count(0)
    assert histogram.overflow == sum(n > oracle.LARGEST for n in numbers)
    assert histogram.count == len(numbers)
    assert histogram.sum == sum(numbers) % 2**64
    assert histogram.sum_squares == sum(n * n for n in numbers) % 2**128
    assert histogram.minimum == min(numbers, default=None)
    assert histogram.maximum == max(numbers, default=None)


@given(lists, lists)
def test_merging_loses_nothing(one, other):
    merged = recorded(one)
    merged.add(recorded(other))
    assert everything(merged) == everything(recorded(one + other))


@given(lists, lists)
def test_subtracting_gives_back_what_came_between(before, between):
    histogram = recorded(before)
    earlier = histogram.copy()
    histogram.record_many(array("Q", between))
    rest = histogram.minus(earlier)
    assert everything(rest)[:5] == everything(recorded(between))[:5]
    if not between:
        assert (rest.minimum, rest.maximum) == (None, None)
        return
    lowest, highest = min(between), max(between)
    assert rest.minimum <= lowest
    assert rest.maximum >= highest
    if not before or lowest < min(before):
        assert rest.minimum == lowest
    if not before or highest > max(before):
        assert rest.maximum == highest
    if 1 <= lowest <= oracle.LARGEST:
        assert oracle.index(max(rest.minimum, 1)) == oracle.index(lowest)
    if 1 <= highest <= oracle.LARGEST:
        assert oracle.index(rest.maximum) == oracle.index(highest)


def test_a_sum_that_wraps_is_still_a_difference():
    histogram = recorded([U64_MAX])
    earlier = histogram.copy()
    histogram.record(5)
    rest = histogram.minus(earlier)
    assert (rest.sum, rest.sum_squares, rest.count, buckets(rest)) == (5, 25, 1, {oracle.index(5): 1})


@given(lists.filter(bool))
def test_subtracting_more_than_there_is_is_refused(numbers):
    with pytest.raises(ValueError, match="holds more"):
        Histogram().minus(recorded(numbers))


@given(lists)
def test_schema_3_is_a_lossless_merge_of_schema_8(numbers):
    merged: dict[int, int] = {}
    for bucket, count in buckets(recorded(numbers)).items():
        coarse = -(-bucket // 2 ** (8 - 3))  # (lo, hi]: the upper bound decides
        merged[coarse] = merged.get(coarse, 0) + count
    assert merged == oracle.buckets(numbers, schema=3)


@given(lists)
def test_a_copy_is_its_own(numbers):
    histogram = recorded(numbers)
    twin = histogram.copy()
    before = everything(histogram)
    twin.record(5)
    assert everything(histogram) == before
    assert twin.count == histogram.count + 1


def test_a_reader_never_sees_sums_torn_by_the_writer():
    """Every value is 2^35, so sum and squares stay fixed multiples of each other; squares need both words."""
    value = 2**35
    chunk = array("Q", [value] * 20_000)
    writer_side = Histogram()
    done = threading.Event()

    def write() -> None:
        for _ in range(40):
            writer_side.record_many(chunk)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    looks = 0
    while not done.is_set() or not looks:
        seen = Histogram()
        seen.add(writer_side)  # merges as a snapshot does, while it is written
        assert seen.sum_squares == seen.sum * value % 2**128
        assert seen.sum % value == 0
        assert seen.count * value <= seen.sum
        looks += 1
    writer.join()
    assert writer_side.count == 800_000
