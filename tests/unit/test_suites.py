"""Suites: the data files are sound, a scale shortens them, their cost bounds what they may use."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.errors import UsageError
from cvmprobe.model.endpoint import Path
from cvmprobe.model.window import Direction, Probe
from cvmprobe.suites import load_suite, scaled, suite_names
from cvmprobe.suites.load import parse_suite
from cvmprobe.suites.price import cost, lease_cost

NODE = (
    'title = "t"\ninterval_ms = 1\nrepeats = 1\n[[step]]\nname = "x"\nprobe = "compute"\nduration_ms = 1\nnode = true\n'
)
SCALES = st.floats(min_value=0.001, max_value=1)


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_loads_and_keeps_warm_ups_on_interval_borders(name):
    suite = load_suite(name)
    assert suite.name == name
    for step in suite.steps:
        omit_ms = int(step.parameters.get("omit_ms", "0"))
        assert omit_ms % suite.interval_ms == 0
        assert step.duration_ms % suite.interval_ms == 0
        assert step.duration_ms >= omit_ms + 2 * suite.interval_ms


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_asks_for_what_engines_can_do(name):
    for step in load_suite(name).steps:
        assert lease_cost(step).seconds >= step.duration_ms / 1_000
        with pytest.raises(UsageError, match="strems"):
            lease_cost(replace(step, parameters={**step.parameters, "strems": "1"}))
    with pytest.raises(UsageError, match="api, which no engine"):
        lease_cost(replace(step, probe=Probe.API))


def test_an_unknown_suite_names_those_there_are():
    with pytest.raises(UsageError, match=r"'quik'.*quick"):
        load_suite("quik")


def test_quick_measures_each_path_and_the_scratch_volume():
    suite = load_suite("quick")
    asked = {(step.name, step.path, step.volume) for step in suite.steps}
    assert ("rr", Path.INTER_NODE, None) in asked
    assert ("stream", Path.LOOPBACK, None) in asked
    assert ("randwrite", None, "scratch") in asked
    assert {step.raw_samples for step in suite.steps if step.probe is Probe.TCP_RR} == {True}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("title = ", "suite broken"),
        ('title = "t"\ninterval_ms = 1\nrepeats = 1', "step"),
        ('title = "t"\ninterval_ms = 1\nrepeats = 1\nspeed = 3\nstep = []', "speed"),
        ('title = "t"\ninterval_ms = 1\nrepeats = 1\n[[step]]\nname = "x"\nprobe = "disk"\nduration_ms = 1', "volumes"),
        ('title = "t"\ninterval_ms = 1\nrepeats = 1\n[[step]]\nname = "x"\nprobe = "dsk"\nduration_ms = 1', "dsk"),
        (f"{NODE}volumes = ['v']", "either paths or volumes or node"),
        (f"{NODE}stand_in = 'loopback'", "no path that loopback could stand in for"),
        (f"{NODE}label = 'fast'", "both or neither"),
    ],
)
def test_a_wrong_document_says_what_is_wrong(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse_suite("broken", text)


@given(SCALES)
def test_a_scaled_suite_is_no_longer_and_still_sound(scale):
    whole = load_suite("quick")
    short = scaled(whole, scale)
    assert [step.name for step in short.steps] == [step.name for step in whole.steps]
    for before, after in zip(whole.steps, short.steps, strict=True):
        omit_ms = int(after.parameters.get("omit_ms", "0"))
        assert after.duration_ms <= before.duration_ms
        assert after.duration_ms % short.interval_ms == omit_ms % short.interval_ms == 0
        assert after.duration_ms >= omit_ms + 2 * short.interval_ms
        assert int(after.parameters.get("file_bytes", "0")) <= int(before.parameters.get("file_bytes", "0"))


def test_scale_one_changes_nothing_and_a_tenth_shortens():
    whole = load_suite("quick")
    assert scaled(whole, 1) is whole
    tenth = scaled(whole, 0.1)
    assert sum(step.duration_ms for step in tenth.steps) < 0.35 * sum(step.duration_ms for step in whole.steps)
    assert {step.parameters.get("file_bytes") for step in tenth.steps} == {None, str(26 << 20)}


@pytest.mark.parametrize("scale", [0, -1, 1.5, float("nan")])
def test_a_scale_outside_its_range_is_refused(scale):
    with pytest.raises(UsageError, match="scale must be above 0"):
        scaled(load_suite("quick"), scale)


def test_cost_counts_only_the_pairs_and_volumes_there_are():
    suite = load_suite("quick")
    nothing = cost(suite, {}, 0)
    assert (nothing.seconds, nothing.network_bytes, nothing.disk_write_bytes) == (0, 0, 0)
    two = cost(suite, {Path.LOOPBACK: 2}, 1)
    four = cost(suite, {Path.LOOPBACK: 4}, 2)
    assert four.network_bytes == 2 * two.network_bytes > 0
    assert four.disk_write_bytes == 2 * two.disk_write_bytes > 0
    assert two.seconds < 60


@given(SCALES, st.integers(1, 5))
def test_cost_is_the_sum_of_what_its_leases_may_use(scale, repeats):
    suite = replace(scaled(load_suite("quick"), scale), repeats=repeats)
    total = cost(suite, {Path.INTER_NODE: 3}, 2)
    network = sum(lease_cost(step).network_bytes for step in suite.steps if step.path is Path.INTER_NODE)
    disk = sum(lease_cost(step).disk_write_bytes for step in suite.steps if step.path is None)
    assert (total.network_bytes, total.disk_write_bytes) == (3 * repeats * network, 2 * repeats * disk)


def test_a_path_stands_in_only_where_the_other_is_missing():
    step = next(step for step in load_suite("constellation-v1.3").steps if step.path is Path.INTER_NODE)
    suite = replace(load_suite("constellation-v1.3"), steps=(step,))
    assert step.stand_in is Path.LOOPBACK
    one = lease_cost(step).seconds
    assert cost(suite, {Path.LOOPBACK: 2}, 1).seconds == 2 * one
    assert cost(suite, {Path.LOOPBACK: 2, Path.INTER_NODE: 6}, 1).seconds == 6 * one
    assert cost(suite, {Path.INTRA_NODE: 2}, 1).seconds == 0


@pytest.mark.parametrize("repeats", [0, -1, 1001])
def test_a_number_of_repeats_out_of_range_is_refused(repeats):
    with pytest.raises(UsageError, match=f"repeats must be 1 to 1000, but are {repeats}"):
        scaled(load_suite("quick"), 0.1, repeats)


def test_repeats_are_those_asked_for():
    assert scaled(load_suite("quick"), 1, 7).repeats == 7
    assert scaled(load_suite("quick"), 0.5, 7).repeats == 7
    assert scaled(load_suite("quick"), 0.5).repeats == load_suite("quick").repeats


def test_a_scale_shortens_repetitions_and_keeps_their_number():
    steps = scaled(load_suite("compute"), 0.05).steps
    assert {step.parameters["repetition_ms"] for step in steps} == {"50"}
    assert {step.parameters["repetitions"] for step in steps} == {"10"}


def loads(suite):
    """What each step asks for, as far as it makes the load what it is; seconds without and with the warm-up."""
    found = {}
    for step in load_suite(suite).steps:
        asked = dict(step.parameters)
        omit_ms = int(asked.pop("omit_ms", "0"))
        found[step.name] = {**asked, "s": ((step.duration_ms - omit_ms) / 1e3, step.duration_ms / 1e3)}
    return found


def test_the_loads_of_constellation_1_3_are_those_that_were_published():
    found = loads("constellation-v1.3")
    buffers = {"sndbuf_bytes": "262144", "rcvbuf_bytes": "262144"}
    netperf = {"streams": "32", "message_bytes": "16384", **buffers, "s": (600, 600)}
    assert found["netperf-internode"] == netperf
    assert next(iter(load_suite("constellation-v1.3").steps)).direction is Direction.BOTH
    for where in ("internode", "intranode"):
        datagrams = {"streams": "1", "offload": "none", **buffers, "s": (90, 100)}
        assert found[f"tcp-{where}"] == {"streams": "1", "s": (90, 100)}
        assert found[f"tcp-{where}-8800"] == {"streams": "1", "mss": "8800", "s": (90, 100)}
        assert found[f"udp-{where}"] == {"datagram_bytes": "1372", **datagrams}
        assert found[f"udp-{where}-8800"] == {"datagram_bytes": "8800", **datagrams}
        assert found[f"rr-tcp-{where}"] == found[f"rr-udp-{where}"] == {"wait": "block", "s": (90, 100)}
    mixes = {
        "r70w30": {"mode": "randrw", "read_percent": "70"},
        "r100": {"mode": "randread"},
        "w100": {"mode": "randwrite"},
    }
    for name, engine, depth in (("async", "libaio", "16"), ("sync", "sync", "1"), ("io_uring", "io_uring", "16")):
        for mix, asked in mixes.items():
            files = {"block_bytes": "4096", "workers": "4", "file_bytes": str(1 << 30), "s": (60, 70)}
            assert found[f"fio-{name}-{mix}"] == {"engine": engine, "depth": depth, **asked, **files}


def test_the_loads_of_constellation_2_6_are_those_that_were_published():
    found = loads("constellation-v2.6")
    for to in ("pod2pod", "pod2service"):
        assert found[f"{to}-tcp"] == {"streams": "1", "s": (10, 11)}
        assert found[f"{to}-udp"] == {"streams": "1", "datagram_bytes": "1372", "offload": "none", "s": (10, 11)}
    for verb in ("read", "write"):
        disk = {"mode": f"rand{verb}", "engine": "libaio", "depth": "128", "workers": "1", "file_bytes": str(10 << 30)}
        assert found[f"{verb}-iops"] == {**disk, "block_bytes": "4096", "s": (60, 70)}
        assert found[f"{verb}-bw"] == {**disk, "block_bytes": str(1 << 20), "s": (60, 70)}


@pytest.mark.parametrize("name", ["constellation-v1.3", "constellation-v2.6"])
def test_every_load_of_a_page_has_its_label_and_what_it_really_is(name):
    steps = load_suite(name).steps
    assert all(step.label and step.really for step in steps)
    assert all("random, not sequential" in step.really for step in steps if "seq." in step.label)
