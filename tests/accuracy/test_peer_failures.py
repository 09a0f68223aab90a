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
SILENT_WINDOWS = 3


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
PROGRESS = {Probe.TCP_RR: "transactions", Probe.TCP_STREAM: "sent_bytes"}


def is_silent(window):
    return window.counters[PROGRESS[window.instance.probe]] == 0


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_stop_acts_beside_a_failed_peer(net, probe, fault):
    with serving(net.b) as peer, begin(net, net.a, peer, probe, duration_ms=120_000, interval_ms=200) as running:
        windows = running.windows()
        while is_silent(next(windows)):
            pass
        with FAULTS[fault](net, peer):
            silent = 0
            for window in windows:
                silent = silent + 1 if is_silent(window) else 0
                if silent == SILENT_WINDOWS:
                    break
            asked = time.monotonic()
            running.stop()
            told = running.told()
            took_s = time.monotonic() - asked
    assert took_s < STOP_BOUND_S
    assert told.windows
    assert all(Flag.CUT in window.flags for window in told.windows)  # what the responder counted is not known


OBSERVED = {
    "peer stopped": "ACK without reply",
    "link down there": "no ACK",
    "link down here": "no ACK",
    "address gone there": "no ACK",
}


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("fault", OBSERVED)
def test_a_window_names_what_was_observed(net, probe, fault):
    with serving(net.b) as peer, begin(net, net.a, peer, probe, duration_ms=120_000, interval_ms=200) as running:
        windows = running.windows()
        while is_silent(next(windows)):
            pass
        with FAULTS[fault](net, peer):
            failed = time.monotonic()
            named = next(window.facts["peer"] for window in windows if "peer" in window.facts)
            took_s = time.monotonic() - failed
            running.stop()
            running.told()
    assert named == OBSERVED[fault]
    assert took_s < STOP_BOUND_S  # the promise is 2 s


@pytest.mark.parametrize("probe", PROBES)
def test_a_peer_that_closes_its_port_is_an_error(net, probe):
    with serving(net.b) as peer, begin(net, net.a, peer, probe, duration_ms=120_000, interval_ms=200) as running:
        windows = running.windows()
        while is_silent(next(windows)):
            pass
        peer.process.kill()
        told = running.told()
    assert any(word in told.error for word in ("Connection reset", "Broken pipe", "ended")), told.error
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
