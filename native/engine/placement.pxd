"""placement.h: which CPU a worker runs on."""

from libc.stdint cimport uint16_t


cdef extern from "engine/placement.h" nogil:
    enum:
        PLACEMENT_MAX_CPUS
    struct placement:
        unsigned int count
        uint16_t *cpus
    int placement_apply(const placement *p, unsigned int index)
