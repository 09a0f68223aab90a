"""Bulk transfer over 1 to 64 TCP connections, one thread each at both ends, blocking."""

from collections.abc import Callable
from typing import final

from cvmprobe.model.session import Session
from cvmprobe.native.initiator import Initiator

@final
class TcpStream(Initiator):
    """Sends messages of ``message_bytes`` over ``streams`` connections each way for ``duration_ms``.

    ``direction``: ``forward``, ``reverse`` or ``both``, seen from here: half of what the session allows goes each way
    then; ``byte_limit`` each way, 0 for none. ``sndbuf_bytes``, ``rcvbuf_bytes``, ``mss``,
    ``dscp``, ``rate_bytes_per_s`` (of each stream) and ``congestion`` are set on the data sockets of both ends, and
    left to the system where they are 0 or empty; arm() raises RefusedError for what a kernel refuses. ``discard`` lets
    the receiver's kernel drop what arrives uncopied.

    Counters of what is sent: ``sent_bytes``, ``send_calls``, ``retransmitted_segments``, ``reordering_events``,
    ``busy_ns``, ``rwnd_limited_ns``, ``sndbuf_limited_ns``; histogram ``send_call_ns``. Counters of what is received:
    ``reverse_receiver_bytes``, ``reverse_receive_calls``. With several streams, ``sent_bytes.1`` and so on for each.
    Facts: ``congestion_control`` as read back, ``sndbuf_bytes`` and ``rcvbuf_bytes`` as the kernel counts them where
    they were asked for, and what TCP_INFO last said of those that send: ``rtt_ns`` (mean), ``min_rtt_ns``,
    ``path_mtu_bytes`` and ``mss_bytes`` (least), ``reordering_segments`` (most), ``cwnd_segments`` and
    ``delivery_bytes_per_s`` (sums), ``delivery_app_limited`` (how many streams had too little to send).
    Raises UsageError for a value out of range.
    """

    def __init__(
        self,
        session: Session,
        *,
        duration_ms: int,
        interval_ms: int,
        streams: int = 1,
        direction: str = "forward",
        message_bytes: int = 131072,
        discard: bool = False,
        sndbuf_bytes: int = 0,
        rcvbuf_bytes: int = 0,
        mss: int = 0,
        dscp: int = 0,
        rate_bytes_per_s: int = 0,
        byte_limit: int = 0,
        congestion: str = "",
        placement: str = "inherit",
        giving_up: Callable[[], bool] = ...,
    ) -> None: ...
    @property
    def reverse_bins(self) -> list[int]:
        """Bytes received here in each interval since the first of them, and after the deadline; empty when closed."""
