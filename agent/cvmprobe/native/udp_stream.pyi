"""Numbered datagrams over 1 to 64 connected UDP sockets, one thread each at both ends."""

from collections.abc import Callable
from typing import final

from cvmprobe.model.session import Session
from cvmprobe.native.initiator import Initiator

@final
class UdpStream(Initiator):
    """Sends datagrams of ``datagram_bytes`` over ``streams`` sockets for ``duration_ms``, forward, in reverse, or both.

    ``rate_bytes_per_s`` of payload for each stream (0: as fast as it goes); buffers of 0 are left to the system;
    ``offload`` is ``best``, ``gso``, ``mmsg`` or ``none`` at both ends; half of what the session allows goes each way
    for both. Counters of what is sent here: ``sent_bytes``, ``sent_datagrams``, ``send_calls``,
    ``send_errors`` (datagrams that this kernel refused), ``icmp_errors``; of what is received here, each datagram once:
    ``reverse_receiver_bytes``, ``reverse_receiver_datagrams``, ``reverse_receive_calls``, ``reverse_duplicates``,
    ``reverse_reordered``. Facts ``send_offload``, ``receive_offload``, after the drain the responder's,
    ``path_mtu_bytes``, ``fragments`` of a datagram, ``icmp_error`` (the last that came back). Raises UsageError for a
    value out of range.
    """

    def __init__(
        self,
        session: Session,
        *,
        duration_ms: int,
        interval_ms: int,
        streams: int = 1,
        direction: str = "forward",
        datagram_bytes: int = 1372,
        rate_bytes_per_s: int = 0,
        offload: str = "best",
        sndbuf_bytes: int = 0,
        rcvbuf_bytes: int = 0,
        dscp: int = 0,
        placement: str = "inherit",
        giving_up: Callable[[], bool] = ...,
    ) -> None: ...
    @property
    def received(self) -> dict[str, int] | None:
        """What was received here once stopped, by the names of ``results``; None where nothing was to come.

        ``bytes``, ``operations``, ``duplicates``, ``reordered``, ``reorder_extent``, ``jitter_ns``, ``socket_drops``.
        """

    @property
    def received_bins(self) -> dict[str, list[int]]:
        """``bytes`` and ``operations`` received here in each interval, and after the deadline."""
