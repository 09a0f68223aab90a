"""Python cannot bend a figure: an engine beside a GIL hog counts what it counts beside the same hog elsewhere."""

import os
import statistics
import sys
import time
from itertools import pairwise

import pytest
from tests.native.hog import hog_inside, hog_ratios, report

from cvmprobe.native.timer import Timer

pytestmark = pytest.mark.alone  # what runs beside it would be in the rates it compares

two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a hog on the only CPU takes it either way")


def ticks_per_second() -> float:
    engine = Timer(rate_per_s=0, duration_ms=100)
    engine.arm()
    engine.start()
    last = engine.snapshot(engine.started_ns + 10**9)
    engine.close()
    return last.counters["ticks"] / 0.1


def python_turns_per_second() -> float:
    """How often Python gets the interpreter back after giving it up for a moment."""
    turns = 0
    end = time.monotonic_ns() + 100_000_000
    while time.monotonic_ns() < end:
        time.sleep(0.0001)
        turns += 1
    return turns / 0.1


@two_cpus
def test_an_engine_does_not_feel_the_interpreter(capsys):
    ratios = hog_ratios(ticks_per_second)
    with capsys.disabled():
        sys.stdout.write(f"\n{report('native ticks', ratios)}\n")
    assert 0.6 < statistics.median(ratios) < 1.67


@two_cpus
def test_the_hog_does_bend_what_python_counts():
    """Else the test above could not fail."""
    assert statistics.median(hog_ratios(python_turns_per_second)) < 0.6


def test_no_tick_is_lost_between_windows_beside_a_hog():
    engine = Timer(rate_per_s=20_000, duration_ms=300)
    engine.arm()
    with hog_inside():
        engine.start()
        seen = []
        while not seen or not seen[-1].finished:
            seen.append(engine.snapshot(engine.started_ns + (len(seen) + 1) * 20_000_000))
    engine.stop()
    total = engine.snapshot()
    engine.close()
    windows = [b.counters["ticks"] - a for a, b in zip([0, *(s.counters["ticks"] for s in seen)], seen, strict=False)]
    assert sum(windows) == total.counters["ticks"] == total.histograms["late_ns"].count
    assert all(later.t_ns > earlier.t_ns for earlier, later in pairwise(seen))
