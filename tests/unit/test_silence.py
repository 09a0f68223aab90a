"""What is observed of a silent peer is named in the window, and nothing else is."""

import pytest

from cvmprobe.probes.silence import observed


@pytest.mark.parametrize(
    ("counters", "named"),
    [
        ({"transactions": 3}, {}),
        ({"transactions": 3, "timeouts": 2, "no_ack_ns": 0, "refused": 0}, {}),
        ({"no_ack_ns": 1}, {"peer": "no ACK"}),
        ({"unanswered_ns": 1, "timeouts": 1, "transactions": 0}, {"peer": "ACK without reply"}),
        ({"no_ack_ns": 1, "unanswered_ns": 1}, {"peer": "no ACK, ACK without reply"}),
        ({"refused": 2, "timeouts": 1, "transactions": 0}, {"peer": "refused"}),
        ({"unreachable": 2}, {"peer": "unreachable"}),
        ({"timeouts": 1, "transactions": 0}, {"peer": "no answer"}),
    ],
)
def test_a_window_names_what_was_observed(counters: dict[str, int], named: dict[str, str]):
    assert observed(counters) == named
