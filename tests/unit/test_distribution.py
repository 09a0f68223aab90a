"""Histograms against lists of values: what is merged, coarsened or ranked is what the values say."""

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit import strategies as some

from cvmprobe.analysis import QUANTILES, downscale, mean, merge, percentile, quantiles
from cvmprobe.errors import UsageError
from cvmprobe.model.histogram import Histogram

LARGEST = 2**37
values = st.lists(st.integers(0, 2 * LARGEST) | st.integers(0, 100) | st.integers(0, 37).map(lambda bits: 1 << bits))
schemas = st.integers(-4, 8)


def recorded(numbers, schema=8):
    """Record one by one, with exact integers: value v is in bucket i where 2^(i-1) < v^(2^schema) <= 2^i."""
    buckets = {}
    for value in numbers:
        if 0 < value <= LARGEST:
            power = (value**256 - 1).bit_length()  # of schema 8; a coarser bucket is the ceiling of its share
            index = -(-power // 2 ** (8 - schema))
            buckets[index] = buckets.get(index, 0) + 1
    return Histogram(
        schema=schema,
        buckets=buckets,
        zero=numbers.count(0),
        overflow=sum(value > LARGEST for value in numbers),
        sum=sum(numbers),
        sum_squares=sum(value * value for value in numbers),
        minimum=min(numbers, default=None),
        maximum=max(numbers, default=None),
    )


class TestMerge:
    @given(values, values)
    def test_it_is_recording_all_values_in_one(self, left, right):
        assert merge([recorded(left), recorded(right)]) == recorded(left + right)

    @given(st.lists(some.histograms, max_size=4), st.randoms())
    def test_order_and_grouping_do_not_matter(self, parts, chance):
        whole = merge(parts)
        shuffled = chance.sample(parts, len(parts))
        cut = chance.randint(0, len(parts))
        assert merge(shuffled) == whole
        assert merge([merge(shuffled[:cut]), merge(shuffled[cut:])]) == whole

    @given(some.histograms)
    def test_nothing_adds_nothing(self, one):
        assert merge([one]) == merge([one, Histogram()]) == one

    def test_of_nothing_is_empty(self):
        assert merge([]) == Histogram()

    @given(values, values, schemas)
    def test_the_coarsest_schema_binds(self, fine, coarse, schema):
        assert merge([recorded(fine), recorded(coarse, schema)]) == recorded(fine + coarse, schema)


class TestDownscale:
    @given(values, schemas)
    def test_it_is_recording_at_the_coarser_schema(self, numbers, schema):
        assert downscale(recorded(numbers), schema) == recorded(numbers, schema)

    @given(some.histograms, schemas)
    def test_no_count_is_lost(self, one, schema):
        target = min(schema, one.schema)
        assert downscale(one, target).count == one.count

    def test_resolution_cannot_be_won(self):
        with pytest.raises(UsageError, match="cannot refine 3 to 8"):
            downscale(Histogram(schema=3), 8)


class TestPercentile:
    @given(
        st.lists(st.integers(0, LARGEST) | st.integers(0, 100), min_size=1),
        st.sampled_from([0.0, 0.001, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0]) | st.floats(0, 1),
    )
    def test_it_is_within_half_a_bucket_of_the_nearest_rank(self, numbers, q):
        rank = max(1, math.ceil(Fraction(str(q)) * len(numbers)))
        exact = sorted(numbers)[rank - 1]
        found = percentile(recorded(numbers), q)
        assert found == pytest.approx(exact, rel=2 ** (1 / 512) - 1 + 1e-12, abs=0)

    def test_an_exact_rank_is_not_rounded_up(self):
        numbers = [10] * 55 + [1000] * 45  # in floating point 0.55 * 100 is more than 55
        assert percentile(recorded(numbers), 0.55) == pytest.approx(10, rel=0.003)
        assert percentile(recorded(numbers), 0.56) == pytest.approx(1000, rel=0.003)

    def test_of_nothing_is_unknown(self):
        assert percentile(Histogram(), 0.5) is None

    def test_beyond_the_range_is_unknown(self):
        numbers = [5] * 9 + [2 * LARGEST]
        assert percentile(recorded(numbers), 0.9) == pytest.approx(5, rel=0.003)
        assert percentile(recorded(numbers), 0.91) is None

    @pytest.mark.parametrize("schema", [-4, 0, 3])
    def test_a_bucket_beyond_all_numbers_is_unknown(self, schema):
        assert percentile(Histogram(schema, {16_384: 1}), 0.5) is None

    @pytest.mark.parametrize("q", [-0.1, 1.1, 99.0])
    def test_a_quantile_is_a_share(self, q):
        with pytest.raises(UsageError, match="between 0 and 1"):
            percentile(Histogram(), q)


class TestQuantiles:
    @pytest.mark.parametrize(
        ("count", "carried"),
        [
            (19, []),
            (20, [0.5]),
            (99, [0.5]),
            (100, [0.5, 0.9]),
            (999, [0.5, 0.9]),
            (1_000, [0.5, 0.9, 0.99]),
            (10_000, [0.5, 0.9, 0.99, 0.999]),
            (99_999, [0.5, 0.9, 0.99, 0.999]),
            (100_000, [0.5, 0.9, 0.99, 0.999, 0.9999]),
        ],
    )
    def test_ten_values_must_lie_beyond(self, count, carried):
        assert list(quantiles(Histogram(buckets={100: count}))) == carried

    def test_what_is_in_the_overflow_is_left_out(self):
        assert list(quantiles(Histogram(buckets={100: 950}, overflow=50))) == [0.5, 0.9]

    def test_they_rise(self):
        chance = random.Random(3)
        found = quantiles(recorded([chance.randrange(1, 10**6) for _ in range(2_000)]))
        assert list(found) == [q for q in QUANTILES if q < 0.995]
        assert list(found.values()) == sorted(found.values())


def test_the_mean_is_exact():
    assert mean(recorded([1, 2, 6])) == 3.0
    assert mean(Histogram()) is None
