"""budget.h: payload bytes that several senders may send in all."""

from libc.stdint cimport uint64_t


cdef extern from "engine/budget.h" nogil:
    struct budget:
        uint64_t limit
    uint64_t budget_take(budget *b, uint64_t wanted)
