"""Engine that does the same work over and over, and takes its time."""

from collections.abc import Mapping
from typing import final

from cvmprobe.native.engine import Engine

@final
class Compute(Engine):
    """One kernel, ``repetitions`` times; each takes about ``repetition_ms``, or has ``work_units`` where given.

    ``kernel`` is integer, chase, triad, aes, page_fault, syscall, wakeup (two threads) or cpuid; ``engine`` names what
    does it where there is a choice (aes-ni, aes-plain; auto: the first that can). chase and triad work on
    ``size_bytes`` of memory in small pages. ``notes`` join the facts, which name the ``engine`` and the ``unit``.
    Counters ``repetitions``, ``work_units``, ``busy_ns`` of whole repetitions; histogram ``unit_fs``: of each
    repetition its time by its units of work, in femtoseconds; ``frequency_khz`` after each, where the kernel tells.
    It finishes after the last repetition; one that the deadline or stop() interrupts counts for nothing, and one with
    another result than the first is an ``error``.
    Raises UsageError for a value out of range or a kernel this processor has not; arm() raises EngineError.
    """

    def __init__(
        self,
        *,
        kernel: str,
        engine: str = "auto",
        size_bytes: int = 0,
        repetition_ms: int = 1000,
        work_units: int = 0,
        repetitions: int = 10,
        placement: str = "inherit",
        duration_ms: int | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None: ...
    @property
    def result(self) -> int | None:
        """What every repetition came to; None unless stopped after at least one."""
