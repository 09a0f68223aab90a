"""What a window says of a peer that does not answer: named as it was observed, not as it is explained."""

from collections.abc import Mapping
from typing import Final

__all__ = ["observed"]

_NAMES: Final = {
    "refused": "refused",
    "unreachable": "unreachable",
    "no_ack_ns": "no ACK",
    "unanswered_ns": "ACK without reply",
}


def observed(counters: Mapping[str, int]) -> dict[str, str]:
    """Return the fact ``peer`` of a window in which something was observed of it; none where it answered."""
    found = [name for counter, name in _NAMES.items() if counters.get(counter)]
    if not found and counters.get("timeouts") and not counters.get("transactions"):
        found = ["no answer"]
    return {"peer": ", ".join(found)} if found else {}
