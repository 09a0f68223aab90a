"""Tables: figures out of windows and summaries, units in the header, a dash for what n does not carry."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from cvmprobe.analysis import summarize
from cvmprobe.cli.figures import figures_of_summaries, figures_of_window, headline
from cvmprobe.cli.tables import tables
from cvmprobe.cli.windows import window_columns
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, NodeTarget, Path, Role, VolumeTarget
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
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


def rendered(windows, width=400, runs=()):
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(tables(figures_of_summaries(summarize(windows)), runs))
    return [line.rstrip() for line in capture.get().splitlines()]


def cells(windows):
    """The only row of the only table, by the two lines of its header."""
    lines = rendered(windows)
    titles, units, _, row = lines[1:5]
    return dict(zip(titles.split(), re.split(r"\s{2,}", row), strict=True)), units.split()


def test_a_stream_is_judged_by_what_arrived():
    assert figures_of_window(STREAM).bytes_per_s == 1.25e9
    assert cells([STREAM]) == (
        {"from": "local-a", "to": "local-b", "path": "loopback", "throughput": "10.00", "windows": "1", "flags": "-"},
        ["[Gbit/s]"],
    )


def test_round_trips_have_quantiles_lateness_and_flags():
    columns, units = cells([RR])
    assert columns == {
        "from": "local-a",
        "to": "local-b",
        "path": "loopback",
        "rate": "1,000",
        "p50": "16.4",
        "p90": "16.4",
        "p99": "-",
        "late": "1.00",
        "n": "500",
        "flags": "starved 1",
    }
    assert units == ["[1/s]", "[µs]", "[µs]", "[µs]", "[%]"]
    assert any("fewer than 10 of the n operations" in line for line in rendered([RR]))


def test_a_disk_has_its_own_units():
    columns, units = cells([READ])
    assert (columns["volume"], columns["IOPS"], columns["throughput"]) == ("scratch", "20,000", "81.9")
    assert (columns["p99"], columns["late"], columns["n"]) == ("1,047", "-", "10,000")
    assert units[:2] == ["[1/s]", "[MB/s]"]


def test_rows_of_one_probe_are_told_apart_by_what_differs():
    lines = rendered([READ, replace(WRITE, flags=frozenset())])
    assert lines[1].split()[:4] == ["mode", "from", "volume", "IOPS"]
    read, write = (line.split() for line in lines[4:6])
    assert (read[0], read[3]) == ("randread", "20,000")
    assert (write[0], write[3]) == ("randwrite", "100")


def test_each_probe_has_a_table_streams_round_trips_disk():
    titles = [line for line in rendered([STREAM, RR, READ]) if line in list(Probe)]
    assert titles == ["tcp_stream", "tcp_rr", "disk"]


def test_spoiled_windows_are_left_out_and_counted():
    columns, _ = cells([WRITE])
    assert (columns["n"], columns["flags"]) == ("0", "cut 1, 1 of 1 left out")
    assert any("harness spoiled" in line for line in rendered([WRITE]))


def test_a_log_shows_whole_commits_and_what_etcd_would_say():
    commits, appends = Histogram(buckets={256 * 20: 10_000}), Histogram(buckets={256 * 10: 10_000})
    log = replace(
        window(Probe.DISK, DISK, {"mode": "wal"}, {"writes": 10_000}, {"commit_ns": commits, "total_ns": appends}),
        facts={"etcd_advice": "kept: 1 of 10000 syncs took over 10 ms, and 1 in 100 may"},
    )
    columns, _ = cells([log])
    assert columns["p50"].startswith("1,04")
    assert any("etcd's advice is kept: 1 of 10000" in line for line in rendered([log]))


def test_what_ended_before_its_time_says_why():
    short = replace(RR, facts={"ended": "ports ran short"})
    assert "ended before its time: ports ran short" in rendered([RR, short])


def test_a_measurement_that_ended_in_its_warm_up_says_so():
    row = rendered([replace(STREAM, phase=Phase.WARMUP, flags=frozenset([Flag.CUT]))])[3]
    assert row.split(maxsplit=4) == ["local-a", "local-b", "loopback", "0", "ended before it was steady"]


def test_what_failed_is_told_with_its_reason():
    failed = LeaseRecord("lease", "stream", STREAM.instance, "failed", "local-b/pod is not attached", {})
    again = replace(failed, lease_id="other")
    done = replace(failed, lease_id="third", state="done", detail="")
    run = Run("r", "quick", 1.0, RunState.PARTIAL, 1, 2, Cost(1, 1, 1), 5, (failed, again, done))
    told = [line for line in rendered([RR], runs=[run]) if line.startswith(("failed", "never"))]
    assert told == [
        "failed: stream  local-a/pod → local-b/pod over loopback: local-b/pod is not attached",
        "never begun: 2 of 5 measurements",
    ]


@pytest.mark.parametrize(("scale", "notes"), [(1, 0), (0.05, 1)])
def test_figures_of_a_shortened_suite_say_so(scale, notes):
    run = Run("r1", "quick", scale, RunState.DONE, 0, 1, Cost(1, 1, 1), 1, ())
    assert sum("quick at scale 0.05: durations" in line for line in rendered([STREAM], runs=[run])) == notes


def test_on_a_narrow_screen_numbers_stay_whole():
    text = "\n".join(rendered([STREAM, RR, READ], width=60))
    for number in ("10.00", "1,000", "16.4", "20,000", "1,047", "10,000"):
        assert number in text.split()


def test_nothing_measured_is_said():
    assert rendered([])[0] == "nothing was measured"


@pytest.mark.parametrize(
    ("shown", "text"),
    [(STREAM, "10.00 Gbit/s"), (RR, "1,000 operations/s"), (READ, "20,000 operations/s")],
)
def test_a_live_line_shows_one_figure(shown, text):
    assert headline(figures_of_window(shown)) == text


def window_cells(shown):
    return {column.header: column.cell(shown) for column in window_columns(lambda _: "")}


def test_a_window_of_a_stream_is_in_bits_and_one_of_a_disk_in_bytes():
    assert window_cells(STREAM)["throughput"] == "10.00 Gbit/s"
    assert window_cells(READ)["throughput"] == "81.9 MB/s"


def test_what_is_unknown_is_no_zero():
    empty = window(Probe.TCP_STREAM, TO_B, {}, {})
    assert figures_of_window(empty).bytes_per_s is None
    assert headline(figures_of_window(empty)) == ""
    shown = window_cells(empty)
    assert shown["throughput"] == shown["p50 [µs]"] == shown["operations [1/s]"] == "-"


def test_a_window_of_no_length_has_no_rate():
    assert figures_of_window(replace(STREAM, duration_ns=0)).bytes_per_s is None


def figures_of(probe, counters, histograms=None):
    return next(iter(figures_of_summaries(summarize([window(probe, TO_B, {}, counters, histograms)])).values()))


@pytest.mark.parametrize(
    ("probe", "counters", "lost"),
    [
        (Probe.UDP_STREAM, {"sent_datagrams": 100, "lost_datagrams": 5}, 0.05),
        (
            Probe.UDP_STREAM,
            {
                "sent_datagrams": 100,
                "lost_datagrams": 5,
                "reverse_sent_datagrams": 300,
                "reverse_lost_datagrams": 5,
            },
            0.025,
        ),
        (Probe.UDP_RR, {"requests": 200, "timeouts": 6, "late_responses": 2}, 0.02),
    ],
)
def test_what_never_arrived_is_a_share(probe, counters, lost):
    assert figures_of(probe, counters).lost == pytest.approx(lost)
    assert f" {lost:.3%}"[:-1] in "\n".join(rendered([window(probe, TO_B, {}, counters)]))


def test_what_cannot_be_lost_has_no_such_column():
    assert figures_of(Probe.TCP_RR, {"transactions": 5}).lost is None
    assert "lost" not in "\n".join(rendered([RR]))


def test_a_load_is_held_against_the_idle_half():
    idle, loaded = Histogram(buckets={256 * 14: 5_000}), Histogram(buckets={256 * 16: 5_000})
    shown = rendered(
        [
            window(Probe.LOADED_RR, TO_B, {}, {}, {"idle_latency_ns": idle}),
            window(Probe.LOADED_RR, TO_B, {}, {"receiver_bytes": 625_000_000}, {"loaded_latency_ns": loaded}),
        ]
    )
    row = next(line for line in shown if line.startswith("local-a"))
    assert row.split()[3:10] == ["16.4", "16.4", "65.4", "65.4", "4.00", "4.00", "10.00"]


def test_connections_have_steps():
    steps = {name: Histogram(buckets={256 * 14: 5_000}) for name in ("latency_ns", "connect_ns", "first_byte_ns")}
    shown = "\n".join(rendered([window(Probe.TCP_CRR, TO_B, {}, {"transactions": 5_000}, steps)]))
    for title in ("connections", "connect p50", "first byte p99"):
        assert title in shown


def compute(unit_ns, **counters):
    kernel = Instance("c", Probe.COMPUTE, A, NodeTarget(), Direction.NONE, 1, {"kernel": "chase", "level": "l2"})
    values = [round(value * 1e6) for value in unit_ns]
    spent = Histogram(buckets={1: len(values)}, sum=sum(values), sum_squares=sum(value**2 for value in values))
    facts = {"engine": "chase", "unit": "accesses", "size_bytes": "655360"}
    return Window(kernel, 1, 10**9, Phase.STEADY, counters, {"unit_fs": spent}, facts)


def test_fixed_work_is_shown_by_the_time_of_a_unit_and_its_interval():
    lines = rendered([compute([4.0, 5.0, 6.0], steal_ns=25_000_000)])
    header, row = lines[1].split(), lines[4].split()
    assert header == ["from", "kernel", "engine", "level", "size", "unit", "time", "±", "n", "steal", "flags"]
    # 95 % of Student's t with 2 degrees of freedom lie within 4.303: 4.303 x 1 / sqrt(3) / 5
    assert row == ["local-a", "chase", "chase", "l2", "640", "accesses", "5", "49.68", "3", "2.50", "-"]


def test_what_a_node_does_not_tell_has_no_column():
    lines = rendered([compute([4.0])])
    assert "steal" not in lines[1]
    assert "frequency" not in lines[1]
    assert lines[4].split()[6:] == ["4", "-", "1", "-"]


def test_what_came_back_stands_beside_both_directions_together():
    both = {"sent_bytes": 9, "receiver_bytes": 625_000_000, "reverse_receiver_bytes": 62_500_000}
    lines = rendered([window(Probe.TCP_STREAM, TO_B, {}, both)])
    assert any("throughput" in line and "of it back" in line for line in lines)
    assert any("11.00" in line and "1.00" in line.replace("11.00", "") for line in lines)
    reverse = window(Probe.TCP_STREAM, TO_B, {}, {"reverse_receiver_bytes": 62_500_000})
    assert figures_of_window(reverse).bytes_per_s == 125_000_000
    assert not any("of it back" in line for line in rendered([reverse]))
