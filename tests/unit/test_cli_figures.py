"""Tables: figures out of windows and summaries, units in the header, a dash for what n does not carry."""

from dataclasses import replace

import pytest
from rich.console import Console

from cvmprobe.analysis import summarize
from cvmprobe.cli.figures import figures_of_summaries, figures_of_window, headline, tables
from cvmprobe.cli.windows import window_columns
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role, VolumeTarget
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import Direction, Flag, Instance, Phase, Probe, Window

A, B = Endpoint("local-a", Role.POD), Endpoint("local-b", Role.POD)
TO_B = EndpointTarget(B, Path.LOOPBACK)
DISK = VolumeTarget("scratch")


def window(probe, target, parameters, counters, histograms=None, flags=(), phase=Phase.STEADY):
    instance = Instance("lease", probe, A, target, Direction.FORWARD, 1, parameters)
    return Window(instance, 1_700_000_000_000, 500_000_000, phase, counters, histograms or {}, {}, frozenset(flags))


STREAM = window(Probe.TCP_STREAM, TO_B, {"streams": "1"}, {"sent_bytes": 9, "receiver_bytes": 625_000_000})
RR = window(
    Probe.TCP_RR,
    TO_B,
    {"rate_per_s": "1000"},
    {"transactions": 500, "late_operations": 5},
    {"latency_ns": Histogram(buckets={256 * 14: 450, 256 * 17: 50}, sum=1, sum_squares=1)},
    [Flag.STARVED],
)
READ = window(
    Probe.DISK,
    DISK,
    {"mode": "randread"},
    {"reads": 10_000, "read_bytes": 40_960_000},
    {"total_ns": Histogram(buckets={256 * 20: 10_000})},
)
WRITE = window(
    Probe.DISK,
    DISK,
    {"mode": "randwrite"},
    {"writes": 50, "write_bytes": 204_800},
    {"total_ns": Histogram(buckets={256 * 20: 50})},
    [Flag.CUT],
)


def rendered(windows, width=400):
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(tables(figures_of_summaries(summarize(windows))))
    return [line.rstrip() for line in capture.get().splitlines()]


def row(lines, start):
    (line,) = [line for line in lines if line.startswith(start)]
    return line.split()


def test_a_stream_is_judged_by_what_arrived():
    assert figures_of_window(STREAM).bytes_per_s == 1.25e9
    cells = row(rendered([STREAM]), "tcp_stream")
    assert cells == ["tcp_stream", "local-a/pod", "local-b/pod", "loopback", "10.00", *["-"] * 6, "1", "-"]


def test_round_trips_have_quantiles_lateness_and_flags():
    lines = rendered([RR])
    assert row(lines, "tcp_rr")[4:] == ["-", "1,000", "16.4", "16.4", "-", "1.00", "500", "1", "starved", "1"]
    assert any("fewer than 10 of the n operations" in line for line in lines)


def test_units_stand_in_the_header():
    header = next(line for line in rendered([RR, READ]) if "measurement" in line)
    for title in ("throughput [Gbit/s]", "round trips [1/s]", "p50 [µs]", "p90 [µs]", "p99 [µs]", "late [%]"):
        assert title in header


def test_rows_of_one_probe_are_told_apart_by_what_differs():
    lines = rendered([READ, replace(WRITE, flags=frozenset())])
    p = "1,047.2"
    assert row(lines, "disk mode=randread")[4:] == ["20,000", "81.9", p, p, p, "-", "10,000", "1", "-"]
    assert row(lines, "disk mode=randwrite")[4:6] == ["100", "0.4"]


def test_spoiled_windows_are_left_out_and_counted():
    lines = rendered([WRITE])
    assert row(lines, "disk")[-6:] == ["0", "cut", "1,", "1", "left", "out"]
    assert "-" in row(lines, "disk")
    assert any("harness spoiled" in line for line in lines)


def test_nothing_measured_is_said():
    assert rendered([])[0] == "nothing was measured"


@pytest.mark.parametrize(
    ("shown", "text"),
    [(STREAM, "10.00 Gbit/s"), (RR, "1,000 operations/s"), (READ, "20,000 operations/s")],
)
def test_a_live_line_shows_one_figure(shown, text):
    assert headline(figures_of_window(shown)) == text


def test_what_is_unknown_is_no_zero():
    empty = window(Probe.TCP_STREAM, TO_B, {}, {})
    assert figures_of_window(empty).bytes_per_s is None
    assert headline(figures_of_window(empty)) == ""
    cells = {column.title: column.cell(empty) for column in window_columns(lambda _: "")}
    assert cells["throughput [MB/s]"] == cells["p50 [µs]"] == cells["operations [1/s]"] == "-"


def test_a_window_of_no_length_has_no_rate():
    assert figures_of_window(replace(STREAM, duration_ns=0)).bytes_per_s is None
