"""Request and response over one TCP connection, one at a time: the full round trip."""

from collections.abc import Callable
from typing import final

from cvmprobe.native.initiator import Initiator

@final
class TcpRr(Initiator):
    """One transaction after the other (``rate_per_s`` 0), or ``rate_per_s`` of them in a second, late or not.

    Without ``duration_ms`` it goes on until stop(). ``dials``: how often each socket is dialed at an address that
    several endpoints answer at (0: only one does); ``giving_up`` is asked every 50 ms meanwhile. Counters
    ``transactions``, ``timeouts`` (longer than 1 s), when paced ``late_operations``; histograms ``latency_ns``, when
    paced ``service_ns``; rows (intended start, latency, 0, 0, 0). Raises UsageError for a value out of range.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        session_id: bytes,
        key: bytes,
        max_bytes: int,
        duration_ms: int | None = None,
        request_bytes: int = 1,
        response_bytes: int = 1,
        spin: bool = False,
        rate_per_s: float = 0,
        raw_samples: bool = False,
        placement: str = "inherit",
        dials: int = 0,
        giving_up: Callable[[], bool] = ...,
    ) -> None: ...
