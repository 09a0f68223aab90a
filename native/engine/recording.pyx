"""What one recorded operation costs here, part by part: the engines' own overhead, measured as they pay it."""

from libc.stdint cimport uint64_t

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.counters cimport counter_add
from cvmprobe.native.histogram cimport Histogram, histogram, histogram_record
from cvmprobe.native.ring cimport ring, ring_close, ring_open, ring_push


cdef extern from *:
    """
    #include <time.h>
    #include <unistd.h>
    #include <sys/syscall.h>
    /* Keep the compiler from joining or dropping what an engine would really do once per operation. */
    #define KEEP() __asm__ volatile("" ::: "memory")
    static inline void clock_by_syscall(void) { struct timespec t; syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t); }
    """
    void KEEP() nogil
    void clock_by_syscall() nogil


cdef enum:
    CLOCK = 1
    HISTOGRAM = 2
    COUNTERS = 4
    RING = 8
    SYSCALL = 16


PARTS = {
    "loop": 0,
    "clock": CLOCK,
    "histogram": HISTOGRAM,
    "counters": COUNTERS,
    "ring": RING,
    "all": CLOCK | HISTOGRAM | COUNTERS | RING,
    "clock by system call": SYSCALL,
}


cdef struct recorder:
    uint64_t[3] counters
    ring ring
    histogram *histogram


cdef inline void operation(recorder *r, int parts, uint64_t value) noexcept nogil:
    cdef uint64_t now = value
    if parts & CLOCK:
        now = clock_now_ns()
    if parts & SYSCALL:
        clock_by_syscall()
    if parts & HISTOGRAM:
        histogram_record(r.histogram, value)
    if parts & COUNTERS:
        counter_add(&r.counters[0], 1)
        counter_add(&r.counters[1], value)
        counter_add(&r.counters[2], value & 1)
    if parts & RING:
        ring_push(&r.ring, now, value, 0, 0, 0)
    KEEP()


cdef uint64_t run(recorder *r, int parts, uint64_t operations) noexcept nogil:
    """Time `operations` with values from 8 us to 24 us, as round trips have them."""
    cdef uint64_t _
    cdef uint64_t value = 1
    cdef uint64_t begin = clock_now_ns()
    for _ in range(operations):
        value = value * 6364136223846793005ULL + 1442695040888963407ULL
        operation(r, parts, 8192 + (value >> 50))
    return clock_now_ns() - begin


def cost_ns(str part not None="all", uint64_t operations=10_000):
    """Return ns per operation of one of PARTS, the bare loop included: subtract `loop` to see the part alone."""
    cdef recorder r
    cdef Histogram distribution = Histogram()
    cdef int parts = PARTS[part]
    cdef uint64_t elapsed_ns
    if not operations:
        raise ValueError("0 operations take no time")
    r.counters[0] = r.counters[1] = r.counters[2] = 0
    r.histogram = distribution._h
    if ring_open(&r.ring, 1 << 16) < 0:
        raise MemoryError("no room for the raw samples")
    with nogil:
        run(&r, parts, operations // 10 + 1)  # warm the caches
        elapsed_ns = run(&r, parts, operations)
    ring_close(&r.ring)
    return elapsed_ns / operations
