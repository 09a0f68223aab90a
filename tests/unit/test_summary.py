"""Summaries against windows counted by hand: what is in a headline, what is left out, and what stays unknown."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit import strategies as some

from cvmprobe.analysis import headlines, merge, quantiles, summarize
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role, VolumeTarget
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe, Window

A, B = Endpoint("local-a", Role.POD), Endpoint("local-b", Role.POD)
STREAM = Instance("lease-1", Probe.TCP_STREAM, A, EndpointTarget(B, Path.INTER_NODE), Direction.FORWARD, 0)
RR = dataclasses.replace(STREAM, probe=Probe.TCP_RR)
DISK = Instance("lease-2", Probe.DISK, A, VolumeTarget("data"), Direction.NONE, 0, {"mode": "randread"})
SECOND = 10**9


def window(instance=STREAM, phase=Phase.STEADY, duration_ns=SECOND, flags=(), histograms=None, facts=None, **counters):
    return Window(instance, 0, duration_ns, phase, counters, histograms or {}, facts or {}, frozenset(flags))


def only(windows, metric):
    (found,) = [row for row in summarize(windows) if row.metric == metric]
    return found


class TestGroups:
    def test_repeats_and_leases_fall_together(self):
        again = dataclasses.replace(STREAM, assignment_id="lease-9", repeat=1)
        row = only([window(sent_bytes=3), window(again, sent_bytes=5)], "sent_bytes")
        assert (row.windows, row.count) == (2, 8)

    @pytest.mark.parametrize(
        "other",
        [
            {"source": B},
            {"target": EndpointTarget(B, Path.SERVICE)},
            {"direction": Direction.REVERSE},
            {"parameters": {"streams": "4"}},
            {"probe": Probe.UDP_STREAM},
        ],
    )
    def test_unlike_measurements_stay_apart(self, other):
        rows = summarize([window(sent_bytes=3), window(dataclasses.replace(STREAM, **other), sent_bytes=5)])
        assert sorted(row.count for row in rows) == [3, 5]

    def test_a_row_says_what_was_measured(self):
        row = only([window(DISK, reads=4)], "reads")
        assert (row.source, row.probe, row.target, row.path) == (A, Probe.DISK, VolumeTarget("data"), None)
        assert (row.direction, row.parameters) == (Direction.NONE, {"mode": "randread"})
        assert only([window(sent_bytes=1)], "sent_bytes").path is Path.INTER_NODE

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(some.windows, max_size=5), st.randoms())
    def test_the_order_of_windows_does_not_matter(self, windows, chance):
        assert summarize(chance.sample(windows, len(windows))) == summarize(windows)


class TestFigures:
    def test_a_rate_is_per_second_of_steady_time(self):
        windows = [
            window(phase=Phase.WARMUP, sent_bytes=10**9),
            window(sent_bytes=300, duration_ns=SECOND),
            window(sent_bytes=100, duration_ns=3 * SECOND),
            window(phase=Phase.DRAIN, sent_bytes=10**9),
        ]
        row = only(windows, "sent_bytes")
        assert (row.count, row.windows, row.seconds, row.rate) == (400, 2, 4.0, 100.0)
        assert (row.mean, row.quantiles) == (None, {})

    def test_a_window_that_does_not_know_a_counter_adds_no_time_to_it(self):
        row = only([window(sent_bytes=8, receiver_bytes=6), window(sent_bytes=8)], "receiver_bytes")
        assert (row.windows, row.seconds, row.rate) == (1, 1.0, 6.0)

    def test_histograms_are_merged_before_they_are_ranked(self):
        parts = [Histogram(buckets={100 + k: 400}, sum=400 * k, minimum=k, maximum=k) for k in range(5)]
        row = only([window(RR, histograms={"latency_ns": part}) for part in parts], "latency_ns")
        assert row.quantiles == quantiles(merge(parts))
        assert set(row.quantiles) == {0.5, 0.9, 0.99}
        assert (row.count, row.mean, row.rate) == (2000, 2.0, None)

    def test_many_histograms_are_merged_on_the_way(self):
        windows = [window(RR, histograms={"latency_ns": Histogram(buckets={k % 90: 1}, sum=k)}) for k in range(700)]
        row = only(windows, "latency_ns")
        assert (row.count, row.windows, row.mean) == (700, 700, sum(range(700)) / 700)


class TestHonesty:
    @pytest.mark.parametrize("flag", [Flag.OVERRUN, Flag.CUT, Flag.ERROR])
    def test_a_window_the_harness_spoiled_is_in_no_figure(self, flag):
        row = only([window(sent_bytes=100), window(sent_bytes=9, flags={flag}), window(sent_bytes=300)], "sent_bytes")
        assert (row.count, row.rate, row.windows, row.left_out) == (400, 200.0, 2, 1)
        assert row.flags == {flag: 1}

    @pytest.mark.parametrize("flag", sorted(set(Flag) - {Flag.OVERRUN, Flag.CUT, Flag.ERROR}))
    def test_a_window_the_machine_disturbed_is_counted_and_kept(self, flag):
        row = only([window(sent_bytes=100), window(sent_bytes=300, flags={flag})], "sent_bytes")
        assert (row.count, row.left_out, row.flags) == (400, 0, {flag: 1})

    def test_flags_of_the_warm_up_do_not_count(self):
        windows = [window(phase=Phase.WARMUP, flags={Flag.LATE}, sent_bytes=1), window(sent_bytes=1)]
        assert only(windows, "sent_bytes").flags == {}

    def test_a_cut_drain_shows(self):
        windows = [window(sent_bytes=1), window(phase=Phase.DRAIN, flags={Flag.CUT}, sent_bytes=1)]
        row = only(windows, "sent_bytes")
        assert (row.flags, row.left_out) == ({Flag.CUT: 1}, 0)

    def test_what_was_measured_and_may_not_be_used_still_has_its_row(self):
        row = only([window(sent_bytes=5, flags={Flag.ERROR})], "sent_bytes")
        assert (row.windows, row.count, row.rate, row.seconds, row.left_out) == (0, 0, None, 0.0, 1)
        row = only([window(RR, Phase.WARMUP, histograms={"latency_ns": Histogram(buckets={1: 99})})], "latency_ns")
        assert (row.windows, row.count, row.mean, row.quantiles) == (0, 0, None, {})

    def test_a_fact_that_changed_on_the_way_says_so(self):
        windows = [
            window(DISK, reads=1, facts={"engine": "io_uring", "file": "new"}),
            window(DISK, reads=1, facts={"engine": "libaio"}),
        ]
        assert only(windows, "reads").facts == {"engine": "mixed", "file": "new"}

    def test_nothing_gives_nothing(self):
        assert summarize([]) == ()


class TestHeadlines:
    def metrics(self, *windows):
        return [row.metric for row in headlines(summarize(windows))]

    def test_a_stream_is_judged_by_what_arrived(self):
        assert self.metrics(window(sent_bytes=9, receiver_bytes=8, send_calls=2)) == ["receiver_bytes"]

    def test_or_by_what_was_sent_where_that_is_unknown(self):
        assert self.metrics(window(sent_bytes=9, send_calls=2)) == ["sent_bytes"]

    def test_each_measurement_is_judged_apart(self):
        there = dataclasses.replace(STREAM, source=B)
        rows = headlines(summarize([window(sent_bytes=9, receiver_bytes=8), window(there, sent_bytes=9)]))
        assert [(row.source, row.metric) for row in rows] == [(A, "receiver_bytes"), (B, "sent_bytes")]

    def test_round_trips_by_latency_and_rate(self):
        latency = {"latency_ns": Histogram(buckets={9: 1}), "service_ns": Histogram(buckets={9: 1})}
        assert self.metrics(window(RR, histograms=latency, transactions=1, timeouts=0)) == [
            "transactions",
            "latency_ns",
        ]

    def test_a_disk_by_operations_and_total_latency(self):
        times = {name: Histogram(buckets={9: 1}) for name in ("total_ns", "submit_ns", "device_ns")}
        assert self.metrics(window(DISK, histograms=times, reads=4, read_bytes=16)) == ["reads", "total_ns"]

    def test_a_probe_without_named_headlines_shows_all(self):
        api = dataclasses.replace(DISK, probe=Probe.API)
        assert self.metrics(window(api, gets=1, lists=2, steal_ns=5)) == ["gets", "lists"]
