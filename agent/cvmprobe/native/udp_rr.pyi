"""Request and response in single datagrams over connected UDP sockets: the full round trip."""

from collections.abc import Callable
from typing import final

from cvmprobe.model.session import Session
from cvmprobe.native.initiator import Initiator

@final
class UdpRr(Initiator):
    """``depth`` requests under way on each of ``connections`` (``rate_per_s`` 0), or so many in a second over all.

    Without ``duration_ms`` it goes on until stop(). A request without a response within ``timeout_ms`` is a timeout,
    and delays none after it. Counters ``transactions``, ``requests``, ``timeouts``, ``late_responses`` (after their
    timeout), ``duplicates``, ``send_errors``, ``refused`` (its port is closed), ``unreachable`` (host or net), when
    paced ``late_operations``; histograms ``latency_ns``, when paced ``service_ns``, with ``kernel_stamps``
    ``wakeup_ns``; rows (intended start, latency, 0, 0, connection). Raises UsageError for a value out of range.
    """

    def __init__(
        self,
        session: Session,
        *,
        duration_ms: int | None = None,
        request_bytes: int = 16,
        response_bytes: int = 16,
        wait: str = "block",
        connections: int = 1,
        depth: int = 1,
        rate_per_s: float = 0,
        poisson: bool = False,
        timeout_ms: int = 200,
        kernel_stamps: bool = False,
        raw_samples: bool = False,
        placement: str = "inherit",
        giving_up: Callable[[], bool] = ...,
    ) -> None: ...
