"""Bulk transfer over 1 to 64 TCP connections, one thread each, blocking."""

from collections.abc import Callable
from typing import final

from cvmprobe.native.initiator import Initiator

@final
class TcpStream(Initiator):
    """Sends messages of ``message_bytes`` for ``duration_ms``, ``max_bytes`` over all streams at the most.

    ``dials``: how often each socket is dialed at an address that several endpoints answer at (0: only one does);
    ``giving_up`` is asked every 50 ms meanwhile; ``discard`` lets the responder drop what it receives uncopied.
    Counters ``sent_bytes``, ``send_calls``, ``retransmitted_segments``; histogram ``send_call_ns``; facts
    ``congestion_control`` as read back, and what TCP_INFO last said: ``rtt_ns`` (mean over the streams),
    ``min_rtt_ns``, ``cwnd_segments`` and ``delivery_bytes_per_s`` (sums). Raises UsageError for a value out of range.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        session_id: bytes,
        key: bytes,
        duration_ms: int,
        interval_ms: int,
        max_bytes: int,
        streams: int = 1,
        message_bytes: int = 131072,
        discard: bool = False,
        placement: str = "inherit",
        dials: int = 0,
        giving_up: Callable[[], bool] = ...,
    ) -> None: ...
