"""counters.h: counters that only grow, one writer each."""

from libc.stdint cimport uint64_t


cdef extern from "engine/counters.h" nogil:
    const uint64_t COUNTER_UNKNOWN
    void counter_add(uint64_t *c, uint64_t n)
    void counter_set(uint64_t *c, uint64_t value)
    uint64_t counter_read(const uint64_t *c)
