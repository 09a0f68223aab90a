"""Connect, request, response, close: one TCP connection for each transaction."""

from collections.abc import Callable
from typing import final

from cvmprobe.model.session import Session
from cvmprobe.native.initiator import Initiator

@final
class TcpCrr(Initiator):
    """One connection after the other (``rate_per_s`` 0), or ``rate_per_s`` of them in a second, late or not.

    They start evenly or as a ``poisson`` process. A request holds a token of 16 bytes, so it has 16 to 16384 bytes; a
    response 1 to 16384. Without ``duration_ms`` it goes on until stop(). Counters ``transactions``, ``timeouts``
    (longer than 1 s), ``syn_retransmits``, ``ports_short`` (1: it ended before its time; the fact ``ended`` says why),
    when paced ``late_operations``; histograms ``latency_ns``, ``connect_ns``, ``first_byte_ns``, when paced
    ``service_ns``; rows (intended start, latency, 0, flags, 0). Raises UsageError for a value out of range.
    """

    def __init__(
        self,
        session: Session,
        *,
        duration_ms: int | None = None,
        request_bytes: int = 16,
        response_bytes: int = 16,
        rate_per_s: float = 0,
        poisson: bool = False,
        raw_samples: bool = False,
        placement: str = "inherit",
        giving_up: Callable[[], bool] = ...,
    ) -> None: ...
