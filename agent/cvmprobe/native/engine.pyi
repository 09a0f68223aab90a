"""The one life of every engine: idle → armed → running → stopped → closed."""

from typing import final

from cvmprobe.native.histogram import Histogram

def parse_placement(text: str) -> tuple[int, ...]:
    """Return the CPUs that ``inherit`` (none), ``same``, ``split`` or ``0,2-3`` means. Raises UsageError."""

@final
class Snapshot:
    """All counters and histograms of an engine at one moment; those of its workers are added up."""

    @property
    def t_ns(self) -> int:
        """CLOCK_MONOTONIC at the copy."""

    @property
    def finished(self) -> bool:
        """Whether all workers have ended."""

    @property
    def counters(self) -> dict[str, int]:
        """Monotone; one that is not known is absent."""

    @property
    def histograms(self) -> dict[str, Histogram]:
        """Copies, monotone."""

class Engine:
    """What all engines share. They are made idle, with everything they need given as keyword arguments."""

    def __init__(self, *, placement: str = "inherit", duration_ms: int | None = None) -> None:
        """``placement`` as in parse_placement; without a duration it runs until stop(). Raises UsageError."""

    @property
    def state(self) -> str: ...
    @property
    def started_ns(self) -> int:
        """CLOCK_MONOTONIC of start(); 0 before."""

    @property
    def thread_ids(self) -> tuple[int, ...]: ...
    @property
    def facts(self) -> dict[str, str]:
        """What was found and used, by name."""

    @property
    def error(self) -> tuple[str, int] | None:
        """(call, errno) that a worker ended on; None while all is well."""

    def arm(self) -> None:
        """Make everything ready and start the threads, which wait. Raises EngineError, WireError, UsageError."""

    def start(self) -> None:
        """Let the threads run. Raises RuntimeError unless armed."""

    def snapshot(self, at_ns: int = 0) -> Snapshot:
        """Copy everything at ``at_ns`` of the monotonic clock (0: now), or as soon as all workers have ended.

        The GIL is released until the copy is made. Raises RuntimeError unless running or stopped.
        """

    def drain_samples(self) -> tuple[bytes, int]:
        """Return the raw rows since the last drain, and how many were overwritten. One thread at a time."""

    def stop(self) -> None:
        """End all workers within 200 ms and join them; does nothing the second time."""

    def close(self) -> None:
        """Stop, and give back memory, files and sockets; does nothing the second time."""
