"""Losses by window: whatever was under way at an edge, they add up to what was lost, and never go back."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.probes.udp_stream import lost_by_window


def test_what_is_missing_in_a_window_was_lost_there():
    assert lost_by_window([100, 100, 100], [90, 100, 95], 15) == [10, 0, 5]


def test_what_was_under_way_is_not_lost():
    assert lost_by_window([100, 100, 0], [60, 100, 40], 0) == [0, 0, 0]
    assert lost_by_window([100, 100, 0], [60, 100, 30], 10) == [10, 0, 0]


def test_no_windows_no_losses():
    assert lost_by_window([], [], 0) == []


flows = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20)


@given(flows)
def test_they_add_up_and_are_off_by_what_was_under_way_at_the_most(flow):
    sent, received, lost_so_far, under_way = [], [], [], []
    waiting = 0
    for out, lost, arriving in flow:
        waiting += out
        gone = min(lost, waiting)
        arrived = min(arriving, waiting - gone)
        waiting -= gone + arrived
        sent.append(out)
        received.append(arrived)
        lost_so_far.append(gone)
        under_way.append(waiting)
    sent.append(0)
    received.append(waiting)
    lost_so_far.append(0)
    under_way.append(0)
    total = sum(lost_so_far)
    told = lost_by_window(sent, received, total)
    assert min(told) >= 0
    assert sum(told) == total
    for so_far, truth, late in zip(accumulate(told), accumulate(lost_so_far), accumulate(under_way, max), strict=True):
        assert truth <= so_far <= truth + late
