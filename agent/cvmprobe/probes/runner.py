"""What an execution asks of an engine: one of native code, or two of them as one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # readable where no engine is built
    from cvmprobe.native.histogram import Histogram

__all__ = ["Runner", "Shot"]


class Shot(Protocol):
    """All counters and histograms at one moment of CLOCK_MONOTONIC, monotone; ``finished``: all workers have ended."""

    @property
    def t_ns(self) -> int:
        """CLOCK_MONOTONIC at the copy."""

    @property
    def finished(self) -> bool:
        """Whether all workers have ended."""

    @property
    def counters(self) -> Mapping[str, int]:
        """One that is not known is absent."""

    @property
    def histograms(self) -> Mapping[str, "Histogram"]:
        """Copies."""


class Runner(Protocol):
    """An armed engine, as native.engine.Engine describes it. ``stop`` may be called from any thread."""

    @property
    def started_ns(self) -> int:
        """CLOCK_MONOTONIC of start()."""

    @property
    def thread_ids(self) -> tuple[int, ...]:
        """Of its workers."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What was found and used, by name."""

    @property
    def error(self) -> tuple[str, int] | None:
        """(call, errno) that a worker ended on."""

    def start(self) -> None:
        """Let the workers run."""

    def snapshot(self, at_ns: int = 0) -> Shot:
        """Copy everything at ``at_ns`` (0: now), or as soon as all workers have ended."""

    def drain_samples(self) -> tuple[bytes, int]:
        """Return the raw rows since the last call, and how many were overwritten."""

    def stop(self) -> None:
        """End all workers."""

    def close(self) -> None:
        """Give everything back."""
