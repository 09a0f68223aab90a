"""Engine that keeps so many reads and writes of each of its files in flight, past the page cache."""

from collections.abc import Mapping, Sequence
from typing import Literal, final

from cvmprobe.native.engine import Engine

@final
class Disk(Engine):
    """One worker per file of ``fds``, each open for direct I/O; the first ``file_bytes`` of each are used.

    Load: ``depth`` operations of ``block_bytes`` in flight per worker, ``read_percent`` of them reads, at random or
    ``sequential`` offsets, as many as go or ``rate_per_s`` over all workers. ``append``: sequential writes until the
    file is full. At most ``max_write_bytes`` are written by all workers together; then the engine finishes.
    ``sync_every`` N: after N writes one fsync (``data_only``: fdatasync) takes a slot, and waits for no other.
    ``direct`` false allows a file without direct I/O, for synced writes alone.
    Verifying: with ``verify_run`` (not 0) blocks are written under a header, and reads check it; ``generation`` 1 says
    that an earlier engine with the same run wrote every block once, 0 that nothing is known of them.
    ``engine``: ``auto`` (the first to be had) or one of ``io_uring libaio threads sync``. ``notes`` join the facts,
    which after arm() name the ``engine``, the ``depth`` it holds and, where better ones were refused, the ``fallback``
    with each errno.

    Counters ``reads read_bytes writes write_bytes`` (those that are asked for), ``short_transfers io_errors
    space_errors other_errors abandoned_operations``; where a pool of threads works ``pool_cpu_ns``; with a rate
    ``late_operations unstarted_operations``; with syncs ``syncs slow_syncs`` (over 10 ms); when verifying
    ``corrupt_blocks misplaced_blocks stale_blocks unchecked_reads``.
    Histograms ``total_ns submit_ns device_ns``; with a rate ``service_ns``, with syncs ``sync_ns``, appending with
    syncs ``commit_ns``, with reads and writes ``read_total_ns write_total_ns``.
    Rows: intended start, total, 0 read / 1 write / 2 sync, 0, slot.
    Raises UsageError for a value out of range; arm() raises UnsoundError for a file without direct I/O, EngineError.
    """

    def __init__(
        self,
        *,
        fds: Sequence[int],
        file_bytes: int,
        block_bytes: int = 4096,
        depth: int = 32,
        sequential: bool = False,
        read_percent: int = 100,
        max_write_bytes: int = 0,
        append: bool = False,
        direct: bool = True,
        sync_every: int = 0,
        data_only: bool = False,
        rate_per_s: float = 0,
        verify_run: int = 0,
        generation: int = 0,
        engine: Literal["auto", "io_uring", "libaio", "threads", "sync"] = "auto",
        seed: int = 0,
        ring_rows: int = 0,
        placement: str = "inherit",
        duration_ms: int | None = None,
        notes: Mapping[str, str] = ...,
    ) -> None: ...
    def first_bad_offset(self) -> int | None: ...
