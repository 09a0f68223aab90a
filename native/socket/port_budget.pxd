"""port_budget.h: how many connections may be opened in a while."""

from libc.stdint cimport uint64_t


cdef extern from "socket/port_budget.h" nogil:
    struct port_budget:
        uint64_t limit
    void port_budget_init(port_budget *b, uint64_t ports)
    bint port_budget_take(port_budget *b, uint64_t now_ns)
