"""ring.h: raw operations as 16-byte rows, newest kept."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t


cdef extern from "engine/ring.h" nogil:
    struct ring_row:
        pass
    struct ring:
        ring_row *rows
        uint64_t capacity
        uint64_t written
    int ring_open(ring *r, uint64_t capacity)
    void ring_close(ring *r)
    void ring_push(ring *r, uint64_t t_ns, uint64_t value_ns, uint8_t kind, uint8_t flags, uint16_t aux)
    uint64_t ring_pending(const ring *r)
    uint64_t ring_drain(ring *r, ring_row *out, uint64_t room, uint64_t *overwritten)
