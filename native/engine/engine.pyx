"""The one life of every engine: idle → armed → running → stopped → closed.

    arm      map and touch memory, open, dial; threads prepare and wait at a gate
    start    open the gate; everything from here on happens in C
    snapshot sleep and copy without the GIL, so that no Python code can move the moment
    stop     threads end within 200 ms and are joined
    close    give everything back
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, realloc

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.clock cimport clock_now_ns, clock_sleep_until
from cvmprobe.native.counters cimport COUNTER_UNKNOWN, counter_read
from cvmprobe.native.histogram cimport Histogram, histogram, histogram_add, histogram_init
from cvmprobe.native.memory cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_POPULATE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap,
)
from cvmprobe.native.placement cimport PLACEMENT_MAX_CPUS
from cvmprobe.native.ring cimport ring, ring_close, ring_drain, ring_open, ring_pending, ring_row
from cvmprobe.native.worker cimport (
    WORKER_NAME_BYTES, gate, gate_await, gate_set, worker, worker_cpu_ns, worker_error_call, worker_halt,
    worker_join, worker_loop, worker_prepare, worker_run_delay_ns, worker_spawn,
)


cdef enum:
    LINE_BYTES = 64  # workers do not share cache lines
    CPU_NS = 0  # counters that every engine has
    RUN_DELAY_NS = 1
    GATE_RUN = 1
    GATE_CANCEL = 2


def parse_placement(str text not None):
    """Return the CPUs that `inherit`, `same`, `split` or a list such as `0,2-3` means here; none for `inherit`.

    Worker i of an engine runs on entry i of the list, which starts again when it ends: `same` is one CPU,
    `split` all that this process may use. Raises UsageError for any other text and for a CPU it may not use.
    """
    allowed = sorted(os.sched_getaffinity(0))[:PLACEMENT_MAX_CPUS]
    if text in ("inherit", "same", "split"):
        return {"inherit": (), "same": tuple(allowed[:1]), "split": tuple(allowed)}[text]
    cpus = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or not (last if dash else first).isdecimal():
            raise UsageError(f"placement {text!r}: say inherit, same, split, or a CPU list such as 0,2-3")
        cpus.extend(range(int(first), min(int(last or first), PLACEMENT_MAX_CPUS) + 1))
    if not cpus or len(cpus) > PLACEMENT_MAX_CPUS:
        raise UsageError(f"placement {text!r}: it names {len(cpus)} CPUs, not 1 to {PLACEMENT_MAX_CPUS}")
    forbidden = sorted(set(cpus).difference(allowed))
    if forbidden:
        raise UsageError(f"placement {text!r}: this process may not run on CPU {forbidden[0]}, only on {allowed}")
    return tuple(cpus)


cdef int append(sources *to, unsigned int metric, void *where) except -1:
    cdef source *items = <source *>realloc(to.items, (to.count + 1) * sizeof(source))
    if items is NULL:
        raise MemoryError("no room to register a metric")
    items[to.count].metric = metric
    items[to.count].where = where
    to.items = items
    to.count += 1
    return 0


cdef unsigned int index_of(list names, str name):
    if name not in names:
        names.append(name)
    return names.index(name)


cdef class Snapshot:
    """All counters and histograms of an engine at one moment; those of its workers are added up."""


cdef class Engine:
    """What all engines share. `placement` is as in parse_placement; without a duration they run until stop()."""

    def __init__(self, *, str placement not None="inherit", duration_ms=None):
        cpus = parse_placement(placement)
        self.state = "idle"
        self.started_ns = 0
        self.thread_ids = ()
        self._facts = {"placement": placement}
        self._duration_ns = None if duration_ms is None else duration_ms * 1_000_000
        self._counter_names = ["cpu_ns", "run_delay_ns"]
        self._histogram_names = []
        self._placement.count = len(cpus)
        for i, cpu in enumerate(cpus):
            self._placement.cpus[i] = cpu

    def __dealloc__(self):
        self._end_workers()
        self._free()

    cdef int _staff(self, unsigned int workers, size_t worker_bytes, worker_loop loop,
                    worker_prepare prepare) except -1:
        """How many workers there are, the size of their struct, and what they do."""
        if not 0 < workers <= 1024:
            raise UsageError(f"{workers} workers: an engine has 1 to 1024")
        self._workers = workers
        self._worker_bytes = (worker_bytes + LINE_BYTES - 1) // LINE_BYTES * LINE_BYTES
        self._loop = loop
        self._prepare = prepare
        return 0

    cdef worker *_worker(self, unsigned int index) noexcept nogil:
        return <worker *>(self._block + LINE_BYTES + index * self._worker_bytes)

    cdef gate *_gate(self) noexcept nogil:
        return <gate *>self._block

    cdef int _count(self, str name, uint64_t *counter) except -1:
        """Register one worker's counter; the same name of several workers is one sum."""
        return append(&self._counters, index_of(self._counter_names, name), counter)

    cdef int _observe(self, str name, histogram *distribution) except -1:
        """Initialise and register one worker's histogram; the same name of several workers is merged."""
        histogram_init(distribution)
        return append(&self._histograms, index_of(self._histogram_names, name), distribution)

    cdef int _sample(self, ring *samples, uint64_t capacity) except -1:
        """Open and register one worker's ring; 0 rows keep nothing. It is closed with the engine."""
        cdef int r = ring_open(samples, capacity)
        if r < 0:
            raise EngineError("mmap", -r, f"make room for {capacity} raw samples")
        return append(&self._rings, 0, samples)

    cdef int _outfit(self, worker *w) except -1:
        return 0

    cdef int _open(self) except -1:
        return 0

    cdef void _interrupt(self) noexcept nogil:
        pass

    cdef void _retire(self, worker *w) noexcept nogil:
        pass

    cdef void _release(self) noexcept nogil:
        pass

    def arm(self):
        """Make everything ready and start the threads, which wait. Raises EngineError, WireError or UsageError."""
        self._must_be("idle", "arm")
        if not self._workers:
            raise TypeError(f"{type(self).__name__} has no workers")
        try:
            self._map_block()
            for i in range(self._workers):
                self._introduce(i)
                self._outfit(self._worker(i))
            self._opened = True
            self._open()
            self._spawn()
        except BaseException:
            self.close()
            raise
        self.state = "armed"

    def start(self):
        """Let the threads run."""
        cdef uint64_t now = clock_now_ns()
        self._must_be("armed", "start")
        deadline = UINT64_MAX if self._duration_ns is None else now + self._duration_ns
        for i in range(self._workers):
            self._worker(i).start_ns = now
            self._worker(i).deadline_ns = deadline
        self.started_ns = now
        self.state = "running"
        gate_set(self._gate(), GATE_RUN)

    def snapshot(self, uint64_t at_ns=0):
        """Copy all counters and histograms at `at_ns` of the monotonic clock, or as soon as all workers have ended.

        The GIL is released until the copy is made. Raises RuntimeError unless running or stopped.
        """
        cdef Snapshot shot = Snapshot()
        cdef list distributions = [Histogram() for _ in self._histogram_names]
        cdef Py_ssize_t i
        cdef uint64_t t_ns = 0
        cdef bint finished = False
        if self.state not in ("running", "stopped"):
            raise RuntimeError(f"cannot snapshot an engine that is {self.state}")
        cdef uint64_t *counters = <uint64_t *>calloc(len(self._counter_names), sizeof(uint64_t))
        cdef histogram **histograms = <histogram **>calloc(len(distributions) + 1, sizeof(histogram *))
        self._readers += 1
        try:
            if counters is NULL or histograms is NULL:
                raise MemoryError("no room for a snapshot")
            for i in range(len(distributions)):
                histograms[i] = (<Histogram>distributions[i])._h
            while not t_ns:
                with nogil:
                    t_ns = self._copy(at_ns, counters, histograms, &finished)
                if not t_ns:
                    PyErr_CheckSignals()
            shot.t_ns = t_ns
            shot.finished = finished
            shot.counters = {
                name: counters[i] for i, name in enumerate(self._counter_names) if counters[i] != COUNTER_UNKNOWN
            }
            shot.histograms = dict(zip(self._histogram_names, distributions, strict=True))
            return shot
        finally:
            self._readers -= 1
            free(counters)
            free(histograms)

    def drain_samples(self):
        """Return the raw rows since the last drain (16 bytes each), and how many more were overwritten before it."""
        cdef uint64_t room = 0
        cdef uint64_t rows = 0
        cdef uint64_t overwritten = 0
        cdef unsigned int i
        if self.state == "closed":
            return b"", 0
        for i in range(self._rings.count):
            room += ring_pending(<ring *>self._rings.items[i].where)
        cdef bytes block = PyBytes_FromStringAndSize(NULL, room * sizeof(ring_row))
        cdef ring_row *out = <ring_row *>PyBytes_AS_STRING(block)
        self._readers += 1
        with nogil:
            for i in range(self._rings.count):
                rows += ring_drain(<ring *>self._rings.items[i].where, out + rows, room - rows, &overwritten)
        self._readers -= 1
        return block[:rows * sizeof(ring_row)], overwritten

    def stop(self):
        """End all workers and join them; does nothing the second time."""
        while self._stopping:  # another thread is at it
            with nogil:
                clock_sleep_until(clock_now_ns() + 1_000_000)
        if self.state not in ("armed", "running"):
            return
        self._stopping = True
        with nogil:
            self._end_workers()
        self._error = self._failure()
        self.state = "stopped"
        self._stopping = False

    def close(self):
        """Stop, and give back memory, files and sockets; does nothing the second time."""
        self.stop()
        if self.state == "closed":
            return
        self.state = "closed"
        while self._readers:  # a snapshot in another thread ends at once, now that the workers have
            with nogil:
                clock_sleep_until(clock_now_ns() + 1_000_000)
        with nogil:
            self._end_workers()
            self._free()

    @property
    def facts(self):
        """What was found and used, by name."""
        return dict(self._facts)

    @property
    def error(self):
        """(call, errno) that a worker ended on; None while all is well."""
        return self._error if self.state in ("stopped", "closed") else self._failure()

    def _must_be(self, str state, str verb):
        if self.state != state:
            raise RuntimeError(f"cannot {verb} an engine that is {self.state}: it must be {state}")

    cdef object _failure(self):
        cdef const char *call
        cdef unsigned int i
        for i in range(self._outfitted):
            call = worker_error_call(self._worker(i))
            if call is not NULL:
                return call.decode(), self._worker(i).error_errno
        return None

    cdef int _raise_failure(self) except -1:
        failure = self._failure()
        if failure is not None:
            raise EngineError(*failure, f"arm {type(self).__name__}")
        return 0

    cdef int _map_block(self) except -1:
        self._block_bytes = LINE_BYTES + self._workers * self._worker_bytes
        cdef void *block = mmap(NULL, self._block_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
        if block is MAP_FAILED:
            raise EngineError("mmap", errno, f"make room for {self._workers} workers")
        self._block = <char *>block
        return 0

    cdef int _introduce(self, unsigned int index) except -1:
        cdef worker *w = self._worker(index)
        cdef bytes name = type(self).__name__.lower().encode()[:WORKER_NAME_BYTES - 6]
        snprintf(w.name, WORKER_NAME_BYTES, b"%s-%u", <const char *>name, index)
        w.index = index
        w.loop = self._loop
        w.prepare = self._prepare
        w.placement = &self._placement
        w.gate = self._gate()
        self._outfitted += 1
        return 0

    cdef int _spawn(self) except -1:
        cdef int r
        cdef unsigned int i
        for i in range(self._workers):
            r = worker_spawn(self._worker(i))
            if r < 0:
                raise EngineError("pthread_create", -r, f"start worker {i} of {self._workers}")
        r = -EINTR
        while r == -EINTR:
            with nogil:
                r = gate_await(&self._gate().ready, self._workers, UINT64_MAX)
            PyErr_CheckSignals()
        self.thread_ids = tuple(self._worker(i).tid for i in range(self._workers))
        return self._raise_failure()

    cdef void _end_workers(self) noexcept nogil:
        cdef unsigned int i
        if self._block is NULL:
            return
        for i in range(self._outfitted):
            worker_halt(self._worker(i))
        if not self._gate().go:
            gate_set(self._gate(), GATE_CANCEL)
        self._interrupt()
        for i in range(self._outfitted):
            worker_join(self._worker(i))

    cdef void _free(self) noexcept nogil:
        cdef unsigned int i
        if self._opened:
            self._release()
        for i in range(self._outfitted):
            self._retire(self._worker(i))
        for i in range(self._rings.count):
            ring_close(<ring *>self._rings.items[i].where)
        if self._block is not NULL:
            munmap(self._block, self._block_bytes)
        free(self._counters.items)
        free(self._histograms.items)
        free(self._rings.items)
        self._opened = False
        self._outfitted = 0
        self._block = NULL
        self._counters.items = self._histograms.items = self._rings.items = NULL
        self._counters.count = self._histograms.count = self._rings.count = 0

    cdef uint64_t _copy(self, uint64_t at_ns, uint64_t *counters, histogram **histograms,
                        bint *finished) noexcept nogil:
        """Wait, read the clock, then read everything. Returns that time, or 0 when a signal came first.

        Whether all have ended is known before anything is read, so a finished copy is complete.
        """
        cdef unsigned int i
        cdef uint64_t value
        cdef uint64_t t_ns
        cdef int r = gate_await(&self._gate().ended, self._workers, at_ns)
        if r == -EINTR:
            return 0
        finished[0] = r == 0
        t_ns = clock_now_ns()
        for i in range(self._counters.count):
            value = counter_read(<uint64_t *>self._counters.items[i].where)
            add_known(&counters[self._counters.items[i].metric], value)
        for i in range(self._histograms.count):
            histogram_add(histograms[self._histograms.items[i].metric], <histogram *>self._histograms.items[i].where)
        for i in range(self._workers):
            add_known(&counters[CPU_NS], worker_cpu_ns(self._worker(i)))
            add_known(&counters[RUN_DELAY_NS], worker_run_delay_ns(self._worker(i)))
        return t_ns


cdef void add_known(uint64_t *total, uint64_t value) noexcept nogil:
    """Add a worker's counter; a sum with one unknown part is unknown."""
    total[0] = COUNTER_UNKNOWN if value == COUNTER_UNKNOWN or total[0] == COUNTER_UNKNOWN else total[0] + value
