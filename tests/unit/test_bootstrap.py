"""Bootstrap-t and Holm: false alarms stay below what is stated, and real differences are found."""

import math
import random
import statistics
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmprobe.analysis.bootstrap import MOST, contrast, holm

TRIALS = 150
DRAWS = 599
EFFECT = 0.02


def trials(truth, *, spread=0.01, repeats=5, seed=1):
    """Contrasts of synthetic runs whose true ratio is ``truth``."""
    chance = random.Random(seed)
    for _ in range(TRIALS):
        before = [chance.lognormvariate(3, spread) for _ in range(repeats)]
        after = [truth * chance.lognormvariate(3, spread) for _ in range(repeats)]
        yield contrast(before, after, DRAWS)


def binomial_bound(n, p=0.05, miss=1e-3):
    """Smallest count that n draws of probability p exceed with probability below ``miss``."""
    total, count = 0.0, 0
    while True:
        total += math.comb(n, count) * p**count * (1 - p) ** (n - count)
        if total >= 1 - miss:
            return count
        count += 1


@pytest.mark.parametrize("truth", [1.0, 1 + EFFECT, 1 / (1 + EFFECT)])
def test_what_is_within_the_minimum_effect_raises_few_alarms(truth):
    alarms = sum(one.p_beyond(EFFECT) <= 0.05 for one in trials(truth))
    assert alarms <= binomial_bound(TRIALS)


def test_without_a_minimum_effect_alarms_are_as_many_as_stated():
    alarms = sum(one.p_beyond(0) <= 0.05 for one in trials(1.0))
    assert 1 <= alarms <= binomial_bound(TRIALS)


@pytest.mark.parametrize("truth", [1.0, 1.05, 0.5])
def test_the_interval_holds_the_truth_as_often_as_it_says(truth):
    missed = sum(not one.low <= truth <= one.high for one in trials(truth))
    assert missed <= binomial_bound(TRIALS, 0.07)


@pytest.mark.parametrize(("truth", "least"), [(1.10, 0.99), (1 / 1.10, 0.99), (1.05, 0.7)])
def test_differences_are_found(truth, least):
    found = [one.p_beyond(EFFECT) <= 0.05 and (one.ratio > 1) == (truth > 1) for one in trials(truth)]
    assert sum(found) / TRIALS >= least


def test_no_difference_is_found_out_where_the_repeats_agree():
    assert sum(one.within(EFFECT) for one in trials(1.0, spread=0.004)) / TRIALS > 0.9


def test_the_same_data_give_the_same_answer():
    one, other = (contrast([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]) for _ in range(2))
    assert one == other


def test_both_directions_agree():
    chance = random.Random(3)
    before = [chance.lognormvariate(0, 0.02) for _ in range(8)]
    after = [1.1 * chance.lognormvariate(0, 0.02) for _ in range(8)]
    there, back = contrast(before, after), contrast(after, before)
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert there.low == pytest.approx(1 / back.high, rel=0.01)
    assert (there.p_beyond(0.02) <= 0.05) == (back.p_beyond(0.02) <= 0.05) is True


def test_repeats_that_agree_to_the_last_digit_have_no_interval():
    equal, other = contrast([5.0] * 5, [5.0] * 5), contrast([5.0] * 5, [6.0] * 5)
    assert (equal.low, equal.ratio, equal.high) == pytest.approx((1, 1, 1))
    assert equal.within(0.02)
    assert equal.p_beyond(0.02) == 1
    assert (other.low, other.high) == pytest.approx((1.2, 1.2))
    assert other.p_beyond(0.02) < 0.01


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-3, 1e9), min_size=5, max_size=8), st.lists(st.floats(1e-3, 1e9), min_size=5, max_size=8))
def test_any_values_have_an_answer(before, after):
    one = contrast(before, after, 199)
    assert 0 <= one.low <= one.high
    assert 0 < one.p_beyond(0.02) <= 1
    assert one.p_beyond(0.1) >= one.p_beyond(0.01)


def test_an_interval_beyond_all_numbers_is_infinite():
    """Repeats that are all but equal leave a resample with next to no error of its own."""
    before = [1 + place * 1e-10 for place in range(5)]
    one = contrast(before, [16.0, 1.0, 1.0, 16.0, 1.0], 199)
    assert one.low < one.ratio < one.high == math.inf


def test_planned_repeats_tell():
    """With as many repeats as were said to tell a difference of 6 % at this spread, most trials tell it."""
    pilot = contrast([95, 98, 100, 102, 105], [101, 104, 106, 108, 111], DRAWS)
    needed = pilot.repeats_to_tell(EFFECT, 1)
    assert 5 < needed < 20
    found = [one.p_beyond(EFFECT) <= 0.05 for one in trials(pilot.ratio, spread=0.037, repeats=needed)]
    assert sum(found) / TRIALS > 0.4  # planned at the margin: half of them
    assert pilot.repeats_to_tell(EFFECT, 50) > needed


def test_what_lies_on_the_border_needs_more_repeats_than_anybody_waits_for():
    assert contrast([98, 99, 100, 101, 102], [100, 101, 102, 103, 104]).repeats_to_tell(EFFECT, 1) == MOST + 1


def every_resample(values):
    """Mean and squared standard error of each of the n ** n resamples."""
    return [(statistics.fmean(one), statistics.variance(one) / len(one)) for one in product(values, repeat=len(values))]


def exact_ts(before, after):
    """Every t* of the bootstrap of both sides, ascending, with the difference of the logarithms and its error."""
    (a, b) = ([math.log(value) for value in values] for values in (before, after))
    difference = statistics.fmean(b) - statistics.fmean(a)
    error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
    ts = []
    for (mean_a, squared_a), (mean_b, squared_b) in product(every_resample(a), every_resample(b)):
        beyond, spread = mean_b - mean_a - difference, math.sqrt(squared_a + squared_b)
        ts.append(beyond / spread if spread else math.copysign(math.inf, beyond))
    return difference, error, sorted(ts)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([100.0, 103.0, 98.0, 101.0], [109.0, 104.0, 111.0, 106.0]),
        ([100.0, 103.0, 98.0, 101.0], [96.0, 99.0, 91.0, 95.0]),
        ([1.0, 1.4, 1.1, 4.0], [2.0, 2.1, 2.6, 1.9]),
    ],
)
def test_drawn_resamples_agree_with_all_there_are(before, after):
    """Four repeats have few enough resamples to take them all; draws may miss a quantile by five of their errors."""
    difference, error, ts = exact_ts(before, after)
    found = contrast(before, after)
    off = 5 * math.sqrt(0.025 * 0.975 / 4_999)
    for bound, tail in ((found.low, 0.975), (found.high, 0.025)):
        t = (difference - math.log(bound)) / error
        assert ts[int((tail - off) * len(ts))] - 1e-9 <= t <= ts[int((tail + off) * len(ts))] + 1e-9
    t = (abs(difference) - math.log1p(EFFECT)) / error
    beyond = sum(one >= t if difference > 0 else one <= -t for one in ts) / len(ts)
    assert found.p_beyond(EFFECT) == pytest.approx(2 * beyond, abs=10 * math.sqrt(beyond / 4_999) + 1e-3)


@given(st.lists(st.floats(0, 1), max_size=12), st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_holm_rejects_what_stepping_down_rejects(p_values, level):
    rejected = set()
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - place) > level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # by hand: 3 x 0.01, 2 x 0.03, max(0.04, 0.06)
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
