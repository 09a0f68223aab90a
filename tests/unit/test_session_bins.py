"""The responder's bins join the windows of the same intervals, and none is lost."""

from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe, Window
from cvmprobe.probes import session

MS = 1_000_000
INSTANCE = Instance(
    assignment_id="0" * 32,
    probe=Probe.TCP_STREAM,
    source=Endpoint("a", Role.POD),
    target=EndpointTarget(Endpoint("b", Role.POD), Path.LOOPBACK),
    direction=Direction.FORWARD,
    repeat=0,
)


def windows(*durations_ns):
    return [
        Window(INSTANCE, end_unix_ms=index, duration_ns=ns, phase=Phase.STEADY, counters={"sent_bytes": 1})
        for index, ns in enumerate(durations_ns)
    ]


def joined(durations_ns, bins, interval_ms=100):
    found = session.join_bins(windows(*durations_ns), "receiver_bytes", bins, interval_ms)
    return [window.counters["receiver_bytes"] for window in found]


def test_each_window_takes_the_bin_of_its_interval():
    assert joined([100 * MS + 50, 100 * MS, 100 * MS - 40, 3 * MS], [1, 2, 3, 4]) == [1, 2, 3, 4]


def test_a_window_that_a_late_reader_made_longer_takes_all_its_bins():
    assert joined([100 * MS, 250 * MS, 50 * MS, 1 * MS], [1, 2, 3, 4, 5]) == [1, 2 + 3, 4, 5]


def test_a_slow_drain_has_windows_of_its_own():
    assert joined([100 * MS, 100 * MS, 100 * MS, 100 * MS], [1, 2, 3]) == [1, 2, 3, 0]


def test_the_last_window_takes_the_rest():
    assert joined([100 * MS, 20 * MS], [1, 2, 3, 4, 5]) == [1, 2 + 3 + 4 + 5]
    assert joined([30 * MS], [7, 8]) == [15]


def test_no_windows_are_no_windows():
    assert joined([], [1]) == []


def test_other_counters_stay():
    (found,) = session.join_bins(windows(100 * MS), "receiver_bytes", [5], 100)
    assert found.counters == {"sent_bytes": 1, "receiver_bytes": 5}


@given(
    durations_ns=st.lists(st.integers(1, 10**9), min_size=1, max_size=50),
    bins=st.lists(st.integers(0, 10**12), max_size=50),
    interval_ms=st.integers(1, 1000),
)
def test_the_windows_add_up_to_the_bins(durations_ns, bins, interval_ms):
    assert sum(joined(durations_ns, bins, interval_ms)) == sum(bins)


def test_a_cut_execution_has_no_sound_window():
    assert all(Flag.CUT in window.flags for window in session.cut(windows(1, 2)))
