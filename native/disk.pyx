"""Engine that keeps `depth` random reads or writes of one file in flight, by io_uring or libaio, past the page cache.

    before        after                          seen            CLOCK_MONOTONIC, read in the worker:
      |-submit_ns-|---------- device_ns -----------|             once before and once after each submitting call,
      |------------------ total_ns ----------------|             once after each reap

At most DISK_BATCH operations share a submitting call and a reap, and what was reaped is submitted again before more
is, so the depth is held (Little's law) and no completion waits unseen without being charged for it.
A row of the ring: t_ns before, value_ns total_ns, kind 0 read / 1 write, aux the slot.
"""

import errno
import fcntl
import os

from libc.errno cimport EACCES, EIO, ENOMEM, ENOSPC, ENOSYS, EPERM
from libc.errno cimport errno as last_errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport close

from cvmprobe.errors import EngineError, UnsoundError, UsageError

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.counters cimport counter_add
from cvmprobe.native.disk_backend cimport (
    DISK_BATCH, IO_URING, LIBAIO, URING_SETUP_COOP_TASKRUN, URING_SETUP_CQSIZE, URING_SETUP_DEFER_TASKRUN,
    URING_SETUP_SINGLE_ISSUER, disk_backend, disk_completion, disk_queue, disk_target,
)
from cvmprobe.native.engine cimport Engine
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.pace cimport pace, pace_init, pace_random
from cvmprobe.native.ring cimport ring, ring_push
from cvmprobe.native.worker cimport worker, worker_fail, worker_running


cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_POPULATE
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)


cdef extern from *:
    """
    /* Uniform in [0, n): the high half of a 64 x 64 bit product; biased by less than n / 2^64. */
    static inline uint64_t scale_random(uint64_t random, uint64_t n)
    {
        return (uint64_t)((unsigned __int128)random * n >> 64);
    }
    """
    uint64_t scale_random(uint64_t random, uint64_t n) nogil


cdef enum:
    SECTOR_BYTES = 512
    PAGE_BYTES = 4096
    MAX_DEPTH = 1024
    MAX_BLOCK_BYTES = 1 << 20
    MAX_BUFFER_BYTES = 256 << 20
    MAX_FAILURES = 64  # in a row: then the worker ends
    DRAIN_NS = 2_000_000_000  # how long operations in flight at the deadline may take

_URING_FLAGS = {
    "CQSIZE": URING_SETUP_CQSIZE,
    "COOP_TASKRUN": URING_SETUP_COOP_TASKRUN,
    "SINGLE_ISSUER": URING_SETUP_SINGLE_ISSUER,
    "DEFER_TASKRUN": URING_SETUP_DEFER_TASKRUN,
}


cdef struct disk_worker:
    worker worker
    disk_target target
    const disk_backend *candidates[2]
    const disk_backend *backend  # the one in use, NULL before
    disk_queue *queue
    const char *refused_call  # of the first candidate, when the second is in use
    int refused_errno
    bint write
    pace random
    uint64_t blocks  # of the file
    uint64_t writes_left  # operations that may still be written
    uint64_t stamp
    uint32_t failures_in_a_row
    uint32_t idle_count
    uint32_t idle[MAX_DEPTH]
    uint64_t before_ns[MAX_DEPTH]
    uint64_t after_ns[MAX_DEPTH]
    uint64_t operations
    uint64_t bytes
    uint64_t short_transfers
    uint64_t io_errors
    uint64_t space_errors
    uint64_t other_errors
    uint64_t abandoned
    ring samples
    histogram total
    histogram submit
    histogram device


cdef bint is_unavailable(int error) noexcept nogil:
    """Whether an errno means that this machine does not let us use a backend."""
    return error == EPERM or error == ENOSYS or error == EACCES or error == ENOMEM


cdef int open_backend(disk_worker *w, const disk_backend *backend, const char **call) noexcept nogil:
    cdef int r
    call[0] = b"calloc"
    w.queue = <disk_queue *>calloc(1, backend.state_bytes)
    if w.queue is NULL:
        return -ENOMEM
    r = backend.open(w.queue, &w.target)
    call[0] = w.queue.call
    if r == 0:
        w.backend = backend
        return 0
    free(w.queue)
    w.queue = NULL
    return r


cdef int disk_prepare(worker *base) noexcept nogil:
    """Open the first backend that is to be had, on the thread that will use it."""
    cdef disk_worker *w = <disk_worker *>base
    cdef const char *call
    cdef int r = open_backend(w, w.candidates[0], &call)
    if r < 0 and is_unavailable(-r) and w.candidates[1] is not NULL:
        w.refused_call = call
        w.refused_errno = -r
        r = open_backend(w, w.candidates[1], &call)
    if r < 0:
        worker_fail(base, call, -r)
    return r


cdef void put(disk_worker *w, uint32_t slot) noexcept nogil:
    """Queue one operation at a random block; what is written differs from all written before, page by page."""
    cdef uint64_t offset = scale_random(pace_random(&w.random), w.blocks) * w.target.block_bytes
    cdef unsigned char *block = w.target.buffers + <size_t>slot * w.target.block_bytes
    cdef uint32_t at = 0
    if w.write:
        while at < w.target.block_bytes:
            w.stamp += 1
            (<uint64_t *>(block + at))[0] = w.stamp
            at += PAGE_BYTES
        w.writes_left -= 1
    w.backend.put(w.queue, slot, w.write, offset)


cdef bint submit_idle(disk_worker *w) noexcept nogil:
    """Put every idle slot to work. False: the submitting call failed."""
    cdef uint32_t batch, i
    cdef uint64_t before, after
    cdef int r
    while w.idle_count and w.writes_left:
        batch = min(w.idle_count, <uint32_t>DISK_BATCH)
        if batch > w.writes_left:
            batch = <uint32_t>w.writes_left
        w.idle_count -= batch
        for i in range(batch):
            put(w, w.idle[w.idle_count + i])
        before = clock_now_ns()
        r = w.backend.submit(w.queue)
        after = clock_now_ns()
        if r < 0:
            worker_fail(&w.worker, w.queue.call, -r)
            return False
        for i in range(batch):
            w.before_ns[w.idle[w.idle_count + i]] = before
            w.after_ns[w.idle[w.idle_count + i]] = after
    return True


cdef void count_failure(disk_worker *w, int32_t result) noexcept nogil:
    """Count an operation that moved less than a block, by kind; too many in a row end the worker."""
    if result >= 0:
        counter_add(&w.short_transfers, 1)
    elif result == -EIO:
        counter_add(&w.io_errors, 1)
    elif result == -ENOSPC:
        counter_add(&w.space_errors, 1)
    else:
        counter_add(&w.other_errors, 1)
    w.failures_in_a_row += 1
    if w.failures_in_a_row >= MAX_FAILURES:
        worker_fail(&w.worker, b"pwrite" if w.write else b"pread", -result if result < 0 else EIO)


cdef void complete(disk_worker *w, const disk_completion *done, uint64_t seen) noexcept nogil:
    cdef uint64_t before = w.before_ns[done.slot]
    cdef uint64_t after = w.after_ns[done.slot]
    w.idle[w.idle_count] = done.slot
    w.idle_count += 1
    if done.result != <int32_t>w.target.block_bytes:
        count_failure(w, done.result)
        return
    w.failures_in_a_row = 0
    histogram_record(&w.total, seen - before)
    histogram_record(&w.submit, after - before)
    histogram_record(&w.device, seen - after)
    ring_push(&w.samples, before, seen - before, <uint8_t>w.write, 0, <uint16_t>done.slot)
    counter_add(&w.bytes, w.target.block_bytes)
    counter_add(&w.operations, 1)


cdef uint64_t reap(disk_worker *w) noexcept nogil:
    """Take what has ended, waiting for the first; return the time it was seen, 0 when the call failed."""
    cdef disk_completion done[DISK_BATCH]
    cdef int i
    cdef int count = w.backend.reap(w.queue, done)
    cdef uint64_t seen = clock_now_ns()
    if count < 0:
        worker_fail(&w.worker, w.queue.call, -count)
        return 0
    for i in range(count):
        complete(w, &done[i], seen)
    return seen


cdef void disk_loop(worker *base) noexcept nogil:
    cdef disk_worker *w = <disk_worker *>base
    cdef uint64_t now = base.start_ns
    while worker_running(base) and now and now < base.deadline_ns and base.error_call is NULL and w.writes_left:
        if not submit_idle(w):
            break
        now = reap(w)
    drain(w, now + DRAIN_NS)
    counter_add(&w.abandoned, w.target.depth - w.idle_count)


cdef void drain(disk_worker *w, uint64_t give_up_ns) noexcept nogil:
    """Let what is in flight end, unless asked to stop."""
    cdef uint64_t now = 1
    while w.idle_count < w.target.depth and worker_running(&w.worker) and w.worker.error_call is NULL:
        now = reap(w)
        if now == 0 or now > give_up_ns:
            return


cdef class Disk(Engine):
    """Random reads (or, with `write`, writes) of the first `file_bytes` of `fd`, a file open for direct I/O.

    `engine` is `auto` (io_uring, else libaio), `io_uring` or `libaio`. At most `max_write_bytes` are written; then
    the engine finishes. Raises UsageError, UnsoundError (no direct I/O) or EngineError.
    """

    cdef int _fd
    cdef str _engine
    cdef bint _write
    cdef uint32_t _depth
    cdef uint32_t _block_bytes
    cdef uint64_t _file_bytes
    cdef uint64_t _max_write_bytes
    cdef uint64_t _seed
    cdef uint64_t _rows

    def __init__(self, *, int fd, uint64_t file_bytes, uint32_t block_bytes=4096, uint32_t depth=32, bint write=False,
                 uint64_t max_write_bytes=0, str engine not None="auto", uint64_t seed=0, uint64_t ring_rows=0,
                 str placement not None="inherit", duration_ms=None, notes=None):
        super().__init__(placement=placement, duration_ms=duration_ms)
        if engine not in ("auto", "io_uring", "libaio"):
            raise UsageError(f"engine {engine!r}: say auto, io_uring or libaio")
        if not 1 <= depth <= MAX_DEPTH:
            raise UsageError(f"depth {depth}: 1 to {MAX_DEPTH} operations can be in flight")
        if block_bytes % SECTOR_BYTES or not 0 < block_bytes <= MAX_BLOCK_BYTES:
            raise UsageError(f"block_bytes {block_bytes}: give a multiple of {SECTOR_BYTES} up to {MAX_BLOCK_BYTES}")
        if <uint64_t>depth * block_bytes > MAX_BUFFER_BYTES:
            raise UsageError(f"depth {depth} x block_bytes {block_bytes} needs more than {MAX_BUFFER_BYTES} of memory")
        if not file_bytes or file_bytes % block_bytes:
            raise UsageError(f"file_bytes {file_bytes} is no multiple of block_bytes {block_bytes}")
        self._fd = fd
        self._engine = engine
        self._write = write
        self._depth = depth
        self._block_bytes = block_bytes
        self._file_bytes = file_bytes
        self._max_write_bytes = max_write_bytes
        self._seed = seed
        self._rows = ring_rows
        self._facts.update(notes or {})
        self._staff(1, sizeof(disk_worker), disk_loop, disk_prepare)

    def arm(self):
        """Map and touch the buffers, open the backend; its name, and what refused, stand in `facts` then."""
        super().arm()
        self._state_facts(<disk_worker *>self._worker(0))

    cdef int _outfit(self, worker *base) except -1:
        cdef disk_worker *w = <disk_worker *>base
        cdef uint32_t slot
        w.target.fd = -1
        w.candidates[0] = &LIBAIO if self._engine == "libaio" else &IO_URING
        w.candidates[1] = &LIBAIO if self._engine == "auto" else NULL
        w.write = self._write
        w.blocks = self._file_bytes // self._block_bytes
        w.writes_left = self._max_write_bytes // self._block_bytes if self._write else <uint64_t>-1
        w.target.depth = w.idle_count = self._depth
        w.target.block_bytes = self._block_bytes
        for slot in range(self._depth):
            w.idle[slot] = slot
        pace_init(&w.random, 0, 0, self._seed, 0)
        self._register(w)
        w.target.fd = self._adopt()
        return self._map_buffers(w)

    cdef int _register(self, disk_worker *w) except -1:
        kind = "write" if self._write else "read"
        self._count(f"{kind}s", &w.operations)
        self._count(f"{kind}_bytes", &w.bytes)
        self._count("short_transfers", &w.short_transfers)
        self._count("io_errors", &w.io_errors)
        self._count("space_errors", &w.space_errors)
        self._count("other_errors", &w.other_errors)
        self._count("abandoned_operations", &w.abandoned)
        self._observe("total_ns", &w.total)
        self._observe("submit_ns", &w.submit)
        self._observe("device_ns", &w.device)
        return self._sample(&w.samples, self._rows)

    cdef int _adopt(self) except -1:
        """A descriptor of our own, once it is known that reads of it reach the device."""
        try:
            if not fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise UnsoundError(f"descriptor {self._fd} is not open for direct I/O: reads would come from memory")
            return os.dup(self._fd)
        except OSError as error:
            raise EngineError("dup", error.errno, f"take over descriptor {self._fd}") from error

    cdef int _map_buffers(self, disk_worker *w) except -1:
        cdef size_t room = <size_t>self._depth * self._block_bytes
        cdef size_t i
        cdef void *buffers = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
        if buffers is MAP_FAILED:
            raise EngineError("mmap", last_errno, f"make room for {self._depth} blocks of {self._block_bytes} bytes")
        w.target.buffers = <unsigned char *>buffers
        with nogil:
            for i in range(room // sizeof(uint64_t)):
                (<uint64_t *>buffers)[i] = pace_random(&w.random)
            w.stamp = pace_random(&w.random)
        return 0

    cdef int _state_facts(self, disk_worker *w) except -1:
        self._facts["engine"] = w.backend.name.decode()
        if w.refused_call is not NULL:
            refused = errno.errorcode.get(w.refused_errno, w.refused_errno)
            self._facts["fallback"] = f"no io_uring: {w.refused_call.decode()}: {refused} (errno {w.refused_errno})"
        if w.backend is &IO_URING:
            self._facts["io_uring_flags"] = " ".join(
                name for name, flag in _URING_FLAGS.items() if w.queue.setup_flags & flag
            )
            why = w.queue.buffers_error
            self._facts["buffers"] = f"not registered: {errno.errorcode.get(why, why)}" if why else "registered"
        return 0

    cdef void _retire(self, worker *base) noexcept nogil:
        cdef disk_worker *w = <disk_worker *>base
        if w.queue is not NULL:
            w.backend.close(w.queue)
            free(w.queue)
        if w.target.buffers is not NULL:
            munmap(w.target.buffers, <size_t>w.target.depth * w.target.block_bytes)
        if w.target.fd >= 0:
            close(w.target.fd)
