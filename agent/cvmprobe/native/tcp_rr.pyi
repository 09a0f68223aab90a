"""Requests and responses over TCP connections: the full round trip."""

from collections.abc import Callable
from typing import final

from cvmprobe.model.session import Session
from cvmprobe.native.initiator import Initiator

@final
class TcpRr(Initiator):
    """Up to ``depth`` requests under way on each of 1 to 1024 ``connections``, answered in order.

    A closed loop (``rate_per_s`` 0) starts one as soon as one has ended; else ``rate_per_s`` start in a second, evenly
    or as a ``poisson`` process, late or not. ``wait`` is block (one connection), epoll or spin, at both ends. Without
    ``duration_ms`` it goes on until stop(). Counters ``transactions``, ``timeouts`` (longer than 1 s),
    ``retransmitted_segments``, when paced ``late_operations``; histograms ``latency_ns``, when paced ``service_ns``,
    with ``kernel_stamps`` ``wakeup_ns``; rows (intended start, latency, 0, flags, connection). Raises UsageError for a
    value out of range.
    """

    def __init__(
        self,
        session: Session,
        *,
        duration_ms: int | None = None,
        request_bytes: int = 1,
        response_bytes: int = 1,
        wait: str = "block",
        connections: int = 1,
        depth: int = 1,
        rate_per_s: float = 0,
        poisson: bool = False,
        kernel_stamps: bool = False,
        raw_samples: bool = False,
        placement: str = "inherit",
        giving_up: Callable[[], bool] = ...,
    ) -> None: ...
