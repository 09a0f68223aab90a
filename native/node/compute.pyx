"""Engine that does the same work over and over, and takes its time: what a processor, and the wall around it, cost.

    calibrate            repetition 1                              repetition 2
    |--------------------|------------------------------|..........|------------------------------|.....
                         begin      the fixed work    end  judged  begin                        end
                         CLOCK_MONOTONIC                 unit_fs = (end - begin) / units of work

The work is done in slices of about 10 ms, between which the engine looks whether to go on; a repetition that is
not brought to its end counts for nothing. All are the same work from the same state, so they must have the same
result; one that has another ends the engine with an error. Preparing and judging are outside the two stamps.
"""

from libc.errno cimport EBADMSG, errno
from libc.stdint cimport uint32_t, uint64_t

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.counters cimport counter_add
from cvmprobe.native.engine cimport Engine
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.memory cimport (
    MADV_NOHUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)
from cvmprobe.native.worker cimport worker, worker_fail, worker_halt, worker_running


cdef extern from "node/compute_kernels.h" nogil:
    enum:
        COMPUTE_LINE_BYTES
        COMPUTE_TRIAD_STRIDE
    struct compute_area:
        char *memory
        uint64_t bytes
        worker *self
        worker *partner
    struct compute_kernel:
        const char *name
        const char *unit
        const char *engine
        uint32_t granule_units
        uint32_t memory
        uint32_t workers
        void (*fill)(compute_area *) noexcept nogil
        void (*reset)(compute_area *) noexcept nogil
        int (*work)(compute_area *, uint64_t) noexcept nogil
        uint64_t (*result)(const compute_area *) noexcept nogil
    const compute_kernel *compute_find(const char *name, const char *engine)
    void compute_answer(compute_area *area, worker *w)


cdef extern from "node/frequency.h" nogil:
    uint64_t frequency_khz()


cdef enum:
    SLICE_NS = 10_000_000
    CALIBRATION_NS = 50_000_000  # at the most; else a tenth of a repetition
    FS_PER_NS = 1_000_000


cdef struct compute_worker:
    worker worker
    const compute_kernel *kernel
    compute_area area  # the first worker's; the others use it
    compute_area *shared
    uint64_t target_ns
    uint64_t limit
    uint64_t slice_granules
    uint64_t slices
    uint64_t expected
    uint64_t repetitions
    uint64_t work_units
    uint64_t busy_ns
    histogram unit_fs
    histogram frequency_khz


cdef bint may_go_on(worker *base) noexcept nogil:
    return worker_running(base) and clock_now_ns() < base.deadline_ns


cdef bint do_slice(compute_worker *w, uint64_t granules) noexcept nogil:
    cdef int r = w.kernel.work(w.shared, granules)
    if r < 0:
        worker_fail(&w.worker, b"mmap", -r)
    return r == 0


cdef bint calibrate(compute_worker *w) noexcept nogil:
    """Double a slice until it takes long enough to tell its speed; then choose the slices of a whole repetition."""
    cdef uint64_t enough_ns = min(<uint64_t>CALIBRATION_NS, w.target_ns // 10)
    cdef uint64_t granules = 1
    cdef uint64_t took = 0
    cdef uint64_t begin
    w.kernel.reset(w.shared)
    while True:
        if not may_go_on(&w.worker):
            return False
        begin = clock_now_ns()
        if not do_slice(w, granules):
            return False
        took = clock_now_ns() - begin
        if took >= enough_ns:
            break
        granules *= 2
    w.slice_granules = <uint64_t>(<double>granules * min(<uint64_t>SLICE_NS, w.target_ns) / took) + 1
    w.slices = <uint64_t>(<double>granules * w.target_ns / took / w.slice_granules) + 1
    return True


cdef bint do_work(compute_worker *w) noexcept nogil:
    cdef uint64_t _i
    for _i in range(w.slices):
        if not may_go_on(&w.worker) or not do_slice(w, w.slice_granules):
            return False
    return True


cdef bint same_result(compute_worker *w) noexcept nogil:
    cdef uint64_t result = w.kernel.result(w.shared)
    if not w.repetitions:
        w.expected = result
    if result != w.expected:
        worker_fail(&w.worker, b"verify the result", EBADMSG)
    return result == w.expected


cdef void record_frequency(compute_worker *w) noexcept nogil:
    cdef uint64_t now_khz = frequency_khz()
    if now_khz:
        histogram_record(&w.frequency_khz, now_khz)


cdef bint repeat(compute_worker *w) noexcept nogil:
    cdef uint64_t units = w.slices * w.slice_granules * w.kernel.granule_units
    cdef uint64_t begin
    cdef uint64_t took
    w.kernel.reset(w.shared)
    begin = clock_now_ns()
    if not do_work(w):
        return False
    took = clock_now_ns() - begin
    if not same_result(w):
        return False
    histogram_record(&w.unit_fs, took * FS_PER_NS // units)
    record_frequency(w)
    counter_add(&w.busy_ns, took)
    counter_add(&w.work_units, units)
    counter_add(&w.repetitions, 1)
    return True


cdef void compute_loop(worker *base) noexcept nogil:
    cdef compute_worker *w = <compute_worker *>base
    if base.index:
        compute_answer(w.shared, base)
        return
    if w.slices or calibrate(w):
        while w.repetitions < w.limit and repeat(w):
            pass
    if w.shared.partner is not NULL:
        worker_halt(w.shared.partner)


cdef int compute_prepare(worker *base) noexcept nogil:
    """Fill the memory from the thread that will use it, so that it is near."""
    cdef compute_worker *w = <compute_worker *>base
    if not base.index and w.kernel.fill is not NULL:
        w.kernel.fill(w.shared)
    return 0


cdef class Compute(Engine):
    """One kernel, `repetitions` times; each takes about `repetition_ms`, or has `work_units` where they are given."""

    cdef const compute_kernel *_kernel
    cdef uint64_t _size_bytes
    cdef uint64_t _target_ns
    cdef uint64_t _work_units
    cdef uint64_t _limit

    def __init__(self, *, str kernel not None, str engine not None="auto", uint64_t size_bytes=0,
                 unsigned int repetition_ms=1000, uint64_t work_units=0, unsigned int repetitions=10,
                 str placement not None="inherit", duration_ms=None, notes=None):
        super().__init__(placement=placement, duration_ms=duration_ms)
        cdef bytes name = kernel.encode()
        cdef bytes by = b"" if engine == "auto" else engine.encode()
        self._kernel = compute_find(name, by)
        if self._kernel is NULL:
            raise UsageError(f"compute: this processor has no kernel {kernel!r} done by engine {engine!r}")
        if not repetition_ms or not repetitions:
            raise UsageError(f"compute: {repetitions} repetitions of {repetition_ms} ms: give at least 1 of 1 ms")
        if work_units % self._kernel.granule_units:
            raise UsageError(f"compute: work_units = {work_units}: give a multiple of {self._kernel.granule_units}")
        if self._kernel.memory and size_bytes < 3 * 8 * COMPUTE_TRIAD_STRIDE:
            raise UsageError(f"compute: size_bytes = {size_bytes}: give at least {3 * 8 * COMPUTE_TRIAD_STRIDE}")
        self._size_bytes = size_bytes // COMPUTE_LINE_BYTES * COMPUTE_LINE_BYTES if self._kernel.memory else 0
        self._target_ns = <uint64_t>repetition_ms * 1_050_000  # a little more: no repetition should be shorter
        self._work_units = work_units
        self._limit = repetitions
        self._facts.update(notes or {})
        self._facts["engine"] = self._kernel.engine.decode()
        self._facts["unit"] = self._kernel.unit.decode()
        if self._kernel.memory:
            self._facts["size_bytes"] = str(self._size_bytes)
        self._staff(self._kernel.workers, sizeof(compute_worker), compute_loop, compute_prepare)

    cdef int _outfit(self, worker *base) except -1:
        cdef compute_worker *w = <compute_worker *>base
        w.kernel = self._kernel
        w.shared = &(<compute_worker *>self._worker(0)).area
        if base.index:
            w.shared.partner = base
            return 0
        w.shared.self = base
        w.target_ns = self._target_ns
        w.limit = self._limit
        w.slice_granules = self._work_units // self._kernel.granule_units
        w.slices = 1 if self._work_units else 0
        self._count("repetitions", &w.repetitions)
        self._count("work_units", &w.work_units)
        self._count("busy_ns", &w.busy_ns)
        self._observe("unit_fs", &w.unit_fs)
        if frequency_khz():
            self._observe("frequency_khz", &w.frequency_khz)
        return self._map_memory(w)

    cdef int _map_memory(self, compute_worker *w) except -1:
        cdef void *memory
        if not self._size_bytes:
            return 0
        memory = mmap(NULL, self._size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if memory is MAP_FAILED:
            raise EngineError("mmap", errno, f"make room for {self._size_bytes} bytes")
        madvise(memory, self._size_bytes, MADV_NOHUGEPAGE)
        w.area.memory = <char *>memory
        w.area.bytes = self._size_bytes
        return 0

    cdef void _retire(self, worker *base) noexcept nogil:
        cdef compute_worker *w = <compute_worker *>base
        if w.area.memory is not NULL:
            munmap(w.area.memory, w.area.bytes)
            w.area.memory = NULL

    @property
    def result(self):
        """What every repetition came to; None unless stopped after at least one."""
        if self.state != "stopped":
            return None
        cdef compute_worker *w = <compute_worker *>self._worker(0)
        return w.expected if w.repetitions else None
