"""Engine that only keeps time: how late does a paced thread start here?

    intended            woken (CLOCK_MONOTONIC, right after the wait)
       |---- late_ns ----|                                            one operation: a tick

A row of the ring: t_ns intended, value_ns late_ns, kind 0, aux the worker.
"""

from libc.stdint cimport uint16_t, uint64_t

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.counters cimport counter_add
from cvmprobe.native.engine cimport Engine
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.pace cimport PACE_LATE_NS, pace, pace_init, pace_start, pace_wait
from cvmprobe.native.ring cimport ring, ring_push
from cvmprobe.native.worker cimport worker


cdef struct timer_worker:
    worker worker
    pace pace
    uint64_t limit
    uint64_t ticks
    uint64_t late_operations
    ring ring
    histogram late


cdef void tick(timer_worker *w, uint64_t intended) noexcept nogil:
    cdef uint64_t late = clock_now_ns() - intended
    histogram_record(&w.late, late)
    ring_push(&w.ring, intended, late, 0, 0, <uint16_t>w.worker.index)
    counter_add(&w.late_operations, late > PACE_LATE_NS)
    counter_add(&w.ticks, 1)


cdef void timer_loop(worker *base) noexcept nogil:
    cdef timer_worker *w = <timer_worker *>base
    cdef uint64_t intended
    pace_start(&w.pace, base.start_ns)
    while w.ticks < w.limit:
        intended = pace_wait(&w.pace, &base.running, base.deadline_ns)
        if not intended:
            return
        tick(w, intended)


cdef class Timer(Engine):
    """Workers that wake at a rate (per second and worker; 0: do not wait) up to `limit` ticks each."""

    cdef double _rate_per_s
    cdef bint _poisson
    cdef uint64_t _seed
    cdef uint64_t _spin_ns
    cdef uint64_t _limit
    cdef uint64_t _rows

    def __init__(self, *, double rate_per_s, bint poisson=False, uint64_t seed=0, uint64_t spin_ns=0,
                 unsigned int workers=1, uint64_t limit=(1 << 64) - 1, uint64_t ring_rows=0,
                 str placement not None="inherit", duration_ms=None):
        super().__init__(placement=placement, duration_ms=duration_ms)
        self._rate_per_s = rate_per_s
        self._poisson = poisson
        self._seed = seed
        self._spin_ns = spin_ns
        self._limit = limit
        self._rows = ring_rows
        self._facts["engine"] = "timer"
        self._staff(workers, sizeof(timer_worker), timer_loop, NULL)

    cdef int _outfit(self, worker *base) except -1:
        cdef timer_worker *w = <timer_worker *>base
        pace_init(&w.pace, self._rate_per_s, self._poisson, self._seed + base.index, self._spin_ns)
        w.limit = self._limit
        self._count("ticks", &w.ticks)
        self._count("late_operations", &w.late_operations)
        self._observe("late_ns", &w.late)
        return self._sample(&w.ring, self._rows)
