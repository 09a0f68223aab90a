"""intervals.h: which interval since a session's first payload byte a moment falls into."""

from libc.stdint cimport uint32_t, uint64_t

from cvmprobe.native.session cimport session_terms


cdef extern from "session/intervals.h" nogil:
    struct intervals:
        const session_terms *terms
        uint32_t count
    uint32_t intervals_at(intervals *v, uint64_t *shared_first_ns, uint64_t now_ns)
