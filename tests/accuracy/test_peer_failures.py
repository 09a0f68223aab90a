"""A peer that fails while it is measured: the probe goes on or says why not, and always stops when it is told to."""

import contextlib
import os
import signal
import time

import pytest
from tests.accuracy.ends import begin, serving
from tests.accuracy.namespaces import addresses_gone, link_down

from cvmprobe.model.window import Flag, Probe

PROBES = [Probe.TCP_RR, Probe.TCP_STREAM]
STOP_BOUND_S = 5  # the promise is 200 ms; a loaded machine may be late, a stop that waits for the peer is not
NAMED_WITHIN_NS = 2_200_000_000  # two seconds, and the window that they end in


@contextlib.contextmanager
def stopped(peer):
    """kill -STOP: its kernel still acknowledges, nobody answers."""
    os.kill(peer.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(peer.process.pid, signal.SIGCONT)


FAULTS = {
    "peer stopped": lambda net, peer: stopped(peer),
    "link down there": lambda net, peer: link_down(net.b),
    "link down here": lambda net, peer: link_down(net.a),
    "address gone there": lambda net, peer: addresses_gone(net.b),
    "address gone here": lambda net, peer: addresses_gone(net.a),
}
# Where nothing can leave here, all that had left may have been acknowledged: then nothing is under way.
OBSERVED = {
    "peer stopped": {"ACK without reply"},
    "link down there": {"no ACK"},
    "link down here": {"no ACK", "ACK without reply"},
    "address gone there": {"no ACK"},
    "address gone here": {"no ACK", "ACK without reply"},
}
PROGRESS = {Probe.TCP_RR: "transactions", Probe.TCP_STREAM: "sent_bytes", Probe.UDP_RR: "transactions"}


def is_silent(window):
    return window.counters[PROGRESS[window.instance.probe]] == 0


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_observed_is_named_and_a_stop_acts(net, probe, fault):
    with serving(net.b) as peer, begin(net, net.a, peer, probe, duration_ms=120_000, interval_ms=200) as running:
        windows = running.windows()
        while is_silent(next(windows)):
            pass
        with FAULTS[fault](net, peer):
            observed, silent_ns = named(windows)
            asked = time.monotonic()
            running.stop()
            told = running.told()
            took_s = time.monotonic() - asked
    print(f"{probe}, {fault}: {observed} after {silent_ns / 1e9:.1f} s; stopped within {took_s * 1e3:.0f} ms")
    assert observed in OBSERVED[fault]
    assert silent_ns <= NAMED_WITHIN_NS
    assert took_s < STOP_BOUND_S
    assert all(Flag.CUT in window.flags for window in told.windows)  # what the responder counted is not known


def named(windows):
    """What the first window says that says something of the peer, and how much silence there was up to its end."""
    silent_ns = 0
    for window in windows:
        silent_ns = silent_ns + window.duration_ns if is_silent(window) else 0
        if "peer" in window.facts:
            return window.facts["peer"], silent_ns
        assert silent_ns < 10 * NAMED_WITHIN_NS, "nothing is said of the peer"
    raise AssertionError("it ended before anything was said of the peer")


def test_datagrams_without_an_answer_are_named(net):
    asked = {"duration_ms": 120_000, "interval_ms": 200, "timeout_ms": 100}
    with serving(net.b) as peer, begin(net, net.a, peer, Probe.UDP_RR, **asked) as running:
        windows = running.windows()
        while not next(windows).counters["transactions"]:
            pass
        with stopped(peer):
            observed, _ = named(windows)
    assert observed == "no answer"


def test_datagrams_to_a_closed_port_are_refused(net):
    asked = {"duration_ms": 120_000, "interval_ms": 200, "timeout_ms": 100, "rate_per_s": 100}
    with serving(net.b) as peer, begin(net, net.a, peer, Probe.UDP_RR, **asked) as running:
        windows = running.windows()
        while not next(windows).counters["transactions"]:
            pass
        peer.process.kill()
        observed, _ = named(windows)
        running.stop()
        running.told()
    assert observed.startswith("refused")


@pytest.mark.parametrize("probe", PROBES)
def test_a_peer_that_closes_its_port_is_an_error(net, probe):
    with serving(net.b) as peer, begin(net, net.a, peer, probe, duration_ms=120_000, interval_ms=200) as running:
        windows = running.windows()
        while is_silent(next(windows)):
            pass
        peer.process.kill()
        told = running.told()
    assert any(word in told.error for word in ("Connection reset", "Broken pipe", "Protocol error")), told.error
    assert Flag.ERROR in told.windows[-1].flags


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("fault", ["link down here", "address gone there", "peer stopped", "nobody listens"])
def test_a_peer_that_is_not_there_is_named(net, probe, fault):
    with serving(net.b) as peer, contextlib.ExitStack() as faults:
        if fault == "nobody listens":
            address = peer.admit(probe)
            peer.process.kill()
            peer.process.wait()
        else:
            address = peer.admit(probe)
            faults.enter_context(FAULTS[fault](net, peer))
        with begin(net, net.a, peer, probe, admitted=address) as running:
            told = running.told()
    assert told.windows == ()
    assert net.b.ipv4 in told.error
    assert "nobody answers" in told.error or "no answer" in told.error, told.error
