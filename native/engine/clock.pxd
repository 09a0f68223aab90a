"""clock.h: the two clocks, in ns."""

from libc.stdint cimport uint64_t


cdef extern from "engine/clock.h" nogil:
    uint64_t clock_now_ns()
    uint64_t clock_real_ns()
    void clock_sleep_until(uint64_t at_ns)
