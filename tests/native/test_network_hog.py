"""A GIL hog in the agent bends a network figure no more than the same hog in another process."""

import os
import statistics
import sys

import pytest
from tests.native.hog import hog_ratios, report
from tests.native.sessions import admitted

from cvmprobe.native.responder import Responder

pytestmark = pytest.mark.alone  # what runs beside it would be in the rates it compares

MEASURED_MS = 150


@pytest.fixture(autouse=True)
def one_cpu():
    """Initiator, responder and hog share one CPU: where threads are put moves a round trip more than any hog."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})  # of this thread, and of all it starts
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def responder(one_cpu):
    """Made where its threads start on that CPU."""
    found = Responder("127.0.0.1")
    yield found
    found.close()


def end_of(engine):
    engine.arm()
    engine.start()
    last = engine.snapshot(engine.started_ns + 30_000_000_000)
    engine.stop()
    return last


def test_the_stream_rate_does_not_feel_the_interpreter(responder, capsys):
    def receiver_bytes() -> float:
        engine = admitted(responder, "tcp_stream", duration_ms=MEASURED_MS)
        end_of(engine)
        counted = sum(engine.bins["bytes"][:-1])
        engine.close()
        return counted

    ratios = hog_ratios(receiver_bytes, pairs=9)
    with capsys.disabled():
        sys.stdout.write(f"\n{report('tcp_stream receiver rate', ratios)}\n")
    assert 0.4 < statistics.median(ratios) < 2.5


def test_the_round_trip_does_not_feel_the_interpreter(responder, capsys):
    def median_ns() -> float:
        engine = admitted(responder, "tcp_rr", duration_ms=MEASURED_MS)
        latency = end_of(engine).histograms["latency_ns"]
        engine.close()
        indices, counts = latency.sparse()
        values = [index for index, count in zip(indices, counts, strict=True) for _ in range(count)]
        return 2 ** (statistics.median(values) / 256)

    ratios = hog_ratios(median_ns)
    with capsys.disabled():
        sys.stdout.write(f"\n{report('tcp_rr p50', ratios)}\n")
    assert 0.4 < statistics.median(ratios) < 2.5
