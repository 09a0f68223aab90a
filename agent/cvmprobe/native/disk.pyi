"""Engine that keeps so many random reads or writes of one file in flight, past the page cache."""

from collections.abc import Mapping
from typing import Literal, final

from cvmprobe.native.engine import Engine

@final
class Disk(Engine):
    """Random reads (or, with ``write``, writes) of the first ``file_bytes`` of ``fd``, open for direct I/O.

    ``engine`` is ``auto`` (io_uring, else libaio), ``io_uring`` or ``libaio``. At most ``max_write_bytes`` are
    written; then the engine finishes. ``notes`` join the facts, which after arm() name the ``engine`` and, where
    io_uring was refused, the ``fallback`` with its errno.
    Counters ``reads``, ``read_bytes`` or ``writes``, ``write_bytes``; ``short_transfers``, ``io_errors``,
    ``space_errors``, ``other_errors``, ``abandoned_operations``; histograms ``total_ns``, ``submit_ns``,
    ``device_ns``; rows (before the submit, total, 0 read / 1 write, 0, slot).
    Raises UsageError for a value out of range; arm() raises UnsoundError for a file without direct I/O, EngineError.
    """

    def __init__(
        self,
        *,
        fd: int,
        file_bytes: int,
        block_bytes: int = 4096,
        depth: int = 32,
        write: bool = False,
        max_write_bytes: int = 0,
        engine: Literal["auto", "io_uring", "libaio"] = "auto",
        seed: int = 0,
        ring_rows: int = 0,
        placement: str = "inherit",
        duration_ms: int | None = None,
        notes: Mapping[str, str] = ...,
    ) -> None: ...
