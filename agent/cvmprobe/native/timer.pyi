"""Engine that only keeps time: it tells how late a paced thread starts."""

from typing import final

from cvmprobe.native.engine import Engine

@final
class Timer(Engine):
    """Workers that wake ``rate_per_s`` times (0: do not wait), up to ``limit`` ticks each.

    Counters ``ticks``, ``late_operations``; histogram ``late_ns``; rows (intended, late, 0, 0, worker).
    """

    def __init__(
        self,
        *,
        rate_per_s: float,
        poisson: bool = False,
        seed: int = 0,
        spin_ns: int = 0,
        workers: int = 1,
        limit: int = ...,
        ring_rows: int = 0,
        placement: str = "inherit",
        duration_ms: int | None = None,
    ) -> None: ...
