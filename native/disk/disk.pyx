"""Engine that keeps `depth` operations of each of its files in flight, by the best interface the kernel allows.

A worker has a file of its own. What it does, and where time stamps are taken, is drawn in disk_load.h; the interfaces
are the table of disk_backends.h. At most DISK_BATCH operations share a submitting call and a reap, and what was reaped
is submitted again before more is, so the depth is held (Little's law) and no completion waits unseen without being
charged for it.
At a rate a worker sleeps until a completion or the next start, whichever comes first; within DISK_LOOK_NS of a start
it only looks for completions, without sleeping, which costs at most that much CPU time per operation (it is in
`cpu_ns`) and less than a sleep and a wake-up would.
A row of the ring: t_ns the intended start, value_ns total_ns, kind 0 read / 1 write / 2 sync, aux the slot.
"""

import errno
import fcntl
import os

from libc.errno cimport errno as last_errno
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from posix.unistd cimport close

from cvmprobe.errors import EngineError, UnsoundError, UsageError

from cvmprobe.native.disk_load cimport (
    DISK_BACKEND_TABLE, DISK_BACKENDS, DISK_MAX_DEPTH, DISK_READ, DISK_REGISTERS, DISK_WRITE,
    URING_SETUP_COOP_TASKRUN, URING_SETUP_CQSIZE, URING_SETUP_DEFER_TASKRUN, URING_SETUP_SINGLE_ISSUER,
    disk_backend, disk_close_backend, disk_ledger_close, disk_ledger_open, disk_loop, disk_prepare, disk_refusal,
    disk_worker,
)
from cvmprobe.native.engine cimport Engine
from cvmprobe.native.memory cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_POPULATE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap,
)
from cvmprobe.native.pace cimport pace_init, pace_random
from cvmprobe.native.worker cimport worker


cdef enum:
    SECTOR_BYTES = 512
    MAX_BLOCK_BYTES = 1 << 20
    MAX_WORKERS = 64
    MAX_BUFFER_BYTES = 256 << 20
    MAX_LEDGER_BYTES = 256 << 20

_URING_FLAGS = {
    "CQSIZE": URING_SETUP_CQSIZE,
    "COOP_TASKRUN": URING_SETUP_COOP_TASKRUN,
    "SINGLE_ISSUER": URING_SETUP_SINGLE_ISSUER,
    "DEFER_TASKRUN": URING_SETUP_DEFER_TASKRUN,
}


cdef list backend_names():
    return [DISK_BACKEND_TABLE[i].name.decode() for i in range(DISK_BACKENDS)]


cdef class Disk(Engine):
    """Reads and writes the first `file_bytes` of each of `fds`; the stub says what the arguments mean.

    Raises UsageError, UnsoundError (no direct I/O) or EngineError.
    """

    cdef tuple _fds
    cdef str _engine
    cdef bint _sequential
    cdef uint32_t _read_percent
    cdef uint32_t _depth
    cdef uint32_t _block_bytes
    cdef uint64_t _blocks
    cdef int64_t _budget
    cdef bint _append
    cdef bint _direct
    cdef uint32_t _sync_every
    cdef bint _data_only
    cdef double _rate
    cdef uint64_t _verify_run
    cdef uint32_t _generation
    cdef uint64_t _seed
    cdef uint64_t _rows

    def __init__(self, *, fds, uint64_t file_bytes, uint32_t block_bytes=4096, uint32_t depth=32,
                 bint sequential=False, uint32_t read_percent=100, uint64_t max_write_bytes=0, bint append=False,
                 bint direct=True, uint32_t sync_every=0, bint data_only=False, double rate_per_s=0,
                 uint64_t verify_run=0, uint32_t generation=0, str engine not None="auto", uint64_t seed=0,
                 uint64_t ring_rows=0, str placement not None="inherit", duration_ms=None, notes=None):
        super().__init__(placement=placement, duration_ms=duration_ms)
        self._fds = tuple(fds)
        self._engine = engine
        self._sequential = sequential
        self._read_percent = read_percent
        self._depth = depth
        self._block_bytes = block_bytes
        self._append = append
        self._direct = direct
        self._sync_every = sync_every
        self._data_only = data_only
        self._rate = rate_per_s
        self._verify_run = verify_run
        self._generation = generation
        self._seed = seed
        self._rows = ring_rows
        self._check_shape(file_bytes)
        self._check_load()
        self._blocks = file_bytes // block_bytes
        self._budget = <int64_t>min(max_write_bytes // block_bytes, <uint64_t>(2**62))
        self._check_verifying()
        self._facts.update(notes or {})
        self._staff(len(self._fds), sizeof(disk_worker), disk_loop, disk_prepare)

    def arm(self):
        """Map and touch the buffers, open the backend; its name, and what refused, stand in `facts` then."""
        super().arm()
        self._state_facts()

    def first_bad_offset(self):
        """Byte of the first block, in the first file that has one, that verifying found wrong; None: there is none."""
        cdef unsigned int i
        for i in range(self._outfitted):
            if (<disk_worker *>self._worker(i)).first_bad_offset != UINT64_MAX:
                return (<disk_worker *>self._worker(i)).first_bad_offset
        return None

    cdef int _check_shape(self, uint64_t file_bytes) except -1:
        workers, depth, block_bytes = len(self._fds), self._depth, self._block_bytes
        if not 1 <= workers <= MAX_WORKERS:
            raise UsageError(f"{workers} files: give 1 to {MAX_WORKERS}, one for each worker")
        if not 1 <= depth <= DISK_MAX_DEPTH:
            raise UsageError(f"depth {depth}: 1 to {DISK_MAX_DEPTH} operations can be in flight")
        if not 0 < block_bytes <= MAX_BLOCK_BYTES or self._direct and block_bytes % SECTOR_BYTES:
            raise UsageError(f"block_bytes {block_bytes}: give a multiple of {SECTOR_BYTES} up to {MAX_BLOCK_BYTES}")
        if workers * depth * block_bytes > MAX_BUFFER_BYTES:
            raise UsageError(f"{workers} workers x depth {depth} x block_bytes {block_bytes} needs more than"
                             f" {MAX_BUFFER_BYTES} of memory")
        if file_bytes < block_bytes or self._direct and file_bytes % block_bytes:
            raise UsageError(f"file_bytes {file_bytes} is no multiple of block_bytes {block_bytes}")
        return 0

    cdef int _check_load(self) except -1:
        if self._engine != "auto" and self._engine not in backend_names():
            raise UsageError(f"engine {self._engine!r}: say auto or one of {', '.join(backend_names())}")
        if self._read_percent > 100:
            raise UsageError(f"read_percent {self._read_percent}: give 0 (writes alone) to 100 (reads alone)")
        if self._read_percent == 100 and self._sync_every:
            raise UsageError(f"sync_every {self._sync_every}: reads alone leave nothing to sync")
        if self._read_percent and (self._append or not self._direct):
            raise UsageError(f"read_percent {self._read_percent}: reads past the page cache only, and never of a log")
        if not self._direct and not self._sync_every:
            raise UsageError("writes through the page cache without sync_every would measure memory")
        if not 0 <= self._rate <= 1e9:
            raise UsageError(f"rate_per_s {self._rate}: give operations a second, 0 for as many as go")
        return 0

    cdef int _check_verifying(self) except -1:
        if not self._verify_run:
            return 0
        if self._blocks < 2 * self._depth:
            raise UsageError(f"a file of {self._blocks} blocks is too small to verify {self._depth} operations at once")
        if self._blocks * sizeof(uint32_t) > MAX_LEDGER_BYTES or not self._direct:
            raise UsageError(f"a file of {self._blocks} blocks of {self._block_bytes} bytes is too big to verify")
        return 0

    cdef int _outfit(self, worker *base) except -1:
        cdef disk_worker *w = <disk_worker *>base
        w.target.fd = -1
        w.first_backend = 0 if self._engine == "auto" else backend_names().index(self._engine)
        w.backend_alone = self._engine != "auto"
        w.sequential = self._sequential or self._append
        w.read_percent = self._read_percent
        w.mixed = 0 < self._read_percent < 100
        w.sync_every = self._sync_every
        w.log = self._append and self._sync_every > 0
        w.blocks = self._blocks
        w.budget = &self._budget
        w.appends_left = self._blocks if self._append else UINT64_MAX
        w.target.depth = self._depth
        w.target.block_bytes = self._block_bytes
        w.target.data_only = self._data_only
        w.first_bad_offset = UINT64_MAX
        w.pool_cpu_ns = UINT64_MAX  # unknown, unless there is a pool
        self._set_pace(w)
        self._register(w)
        w.target.fd = self._adopt(self._fds[base.index])
        self._map_buffers(w)
        return self._open_ledger(w)

    cdef int _set_pace(self, disk_worker *w) except -1:
        w.open_loop = self._rate > 0
        if w.open_loop:
            w.phase_ns = <uint64_t>(w.worker.index * 1e9 / self._rate)
        pace_init(&w.pace, self._rate / len(self._fds), 0, self._seed + w.worker.index, 0)
        return 0

    cdef int _register(self, disk_worker *w) except -1:
        if self._read_percent:
            self._count("reads", &w.directions[DISK_READ].operations)
            self._count("read_bytes", &w.directions[DISK_READ].bytes)
        if self._read_percent < 100:
            self._count("writes", &w.directions[DISK_WRITE].operations)
            self._count("write_bytes", &w.directions[DISK_WRITE].bytes)
        for name, counter in (
            ("short_transfers", <size_t>&w.short_transfers), ("io_errors", <size_t>&w.io_errors),
            ("space_errors", <size_t>&w.space_errors), ("other_errors", <size_t>&w.other_errors),
            ("abandoned_operations", <size_t>&w.abandoned), ("pool_cpu_ns", <size_t>&w.pool_cpu_ns),
        ):
            self._count(name, <uint64_t *><size_t>counter)
        self._observe("total_ns", &w.total)
        self._observe("submit_ns", &w.submit)
        self._observe("device_ns", &w.device)
        self._register_options(w)
        return self._sample(&w.samples, self._rows // len(self._fds))

    cdef int _register_options(self, disk_worker *w) except -1:
        if w.mixed:
            self._observe("read_total_ns", &w.directions[DISK_READ].total)
            self._observe("write_total_ns", &w.directions[DISK_WRITE].total)
        if w.open_loop:
            self._observe("service_ns", &w.service)
            self._count("late_operations", &w.late)
            self._count("unstarted_operations", &w.unstarted)
        if w.sync_every:
            self._observe("sync_ns", &w.sync)
            self._count("syncs", &w.syncs)
            self._count("slow_syncs", &w.slow_syncs)
        if w.log:
            self._observe("commit_ns", &w.commit)
        if self._verify_run:
            self._count("corrupt_blocks", &w.corrupt_blocks)
            self._count("misplaced_blocks", &w.misplaced_blocks)
            self._count("stale_blocks", &w.stale_blocks)
            self._count("unchecked_reads", &w.unchecked_reads)
        return 0

    cdef int _adopt(self, int fd) except -1:
        """A descriptor of our own, once it is known that reads of it reach the device."""
        try:
            if self._direct and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise UnsoundError(f"descriptor {fd} is not open for direct I/O: reads would come from memory")
            return os.dup(fd)
        except OSError as error:
            raise EngineError("dup", error.errno, f"take over descriptor {fd}") from error

    cdef int _map_buffers(self, disk_worker *w) except -1:
        cdef size_t room = <size_t>self._depth * self._block_bytes
        cdef size_t i
        cdef void *buffers = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
        if buffers is MAP_FAILED:
            raise EngineError("mmap", last_errno, f"make room for {self._depth} blocks of {self._block_bytes} bytes")
        w.target.buffers = <unsigned char *>buffers
        with nogil:
            for i in range(room // sizeof(uint64_t)):
                (<uint64_t *>buffers)[i] = pace_random(&w.pace)
            w.stamp = pace_random(&w.pace)
        return 0

    cdef int _open_ledger(self, disk_worker *w) except -1:
        cdef int r = 0
        if self._verify_run:
            r = disk_ledger_open(&w.ledger, self._verify_run + w.worker.index, self._blocks, self._generation)
        if r < 0:
            raise EngineError("mmap", -r, f"make room for the generations of {self._blocks} blocks")
        return 0

    cdef int _state_facts(self) except -1:
        """Say what all workers use; where they differ, all that is in use."""
        cdef unsigned int i
        cdef disk_worker *w
        found = {}
        for i in range(self._workers):
            w = <disk_worker *>self._worker(i)
            for name, fact in self._facts_of(w).items():
                found.setdefault(name, {})[fact] = None
        self._facts.update({name: "; ".join(facts) for name, facts in found.items()})
        return 0

    cdef dict _facts_of(self, disk_worker *w):
        cdef const disk_backend *backend = w.choice.backend
        facts = {"engine": backend.name.decode(), "depth": str(w.choice.depth)}
        refusals = [self._refusal(i, &w.choice.refused[i]) for i in range(DISK_BACKENDS)]
        if any(refusals):
            facts["fallback"] = ", ".join(filter(None, refusals))
        if backend.capabilities & DISK_REGISTERS:
            facts["io_uring_flags"] = " ".join(
                name for name, flag in _URING_FLAGS.items() if w.choice.queue.setup_flags & flag
            )
            why = w.choice.queue.buffers_error
            facts["buffers"] = f"not registered: {errno.errorcode.get(why, why)}" if why else "registered"
        return facts

    cdef str _refusal(self, int index, disk_refusal *refused):
        if refused.call is NULL:
            return ""
        name = errno.errorcode.get(refused.error, refused.error)
        return f"no {backend_names()[index]}: {refused.call.decode()}: {name} (errno {refused.error})"

    cdef void _retire(self, worker *base) noexcept nogil:
        cdef disk_worker *w = <disk_worker *>base
        disk_close_backend(&w.choice)
        disk_ledger_close(&w.ledger)
        if w.target.buffers is not NULL:
            munmap(w.target.buffers, <size_t>w.target.depth * w.target.block_bytes)
        if w.target.fd >= 0:
            close(w.target.fd)
