"""udp_sequence.h: which datagrams of a numbered flow have arrived, and how unevenly."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "udp/udp_sequence.h" nogil:
    const uint64_t SEQUENCE_KNOWN
    struct udp_sequence:
        uint64_t next
        uint64_t unique
        uint64_t duplicates
        uint64_t reordered
        uint64_t reorder_extent
        uint64_t stale
    struct udp_jitter:
        uint64_t sixteenfold
    uint64_t sequence_take(udp_sequence *s, uint64_t number)
    void jitter_take(udp_jitter *j, uint32_t sent, uint32_t received)
