"""Student's t against published values, and the deviation against the statistics module."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.analysis import deviation, half_width, student_t
from cvmprobe.errors import UsageError
from cvmprobe.model.histogram import Histogram


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)]
)
def test_t_is_that_of_the_tables(freedom, t):
    assert student_t(freedom) == pytest.approx(t, rel=1e-5)


def test_t_comes_to_the_normal_distribution():
    assert student_t(10**9) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), rel=1e-3)


def test_an_interval_needs_two_values():
    with pytest.raises(UsageError, match="0 degrees of freedom"):
        half_width(1.0, 1)


@given(st.lists(st.integers(0, 1 << 62), min_size=2, max_size=20))
def test_the_deviation_is_that_of_a_sample(values):
    whole = Histogram(buckets={1: len(values)}, sum=sum(values), sum_squares=sum(value**2 for value in values))
    assert deviation(whole) == pytest.approx(statistics.stdev(values), rel=1e-9)


def test_one_value_has_no_deviation():
    assert deviation(Histogram(buckets={1: 1}, sum=1, sum_squares=1)) is None
