"""tcp_rr_line.h: the asking side of each connection."""

from libc.stdint cimport uint32_t, uint64_t

from cvmprobe.native.tcp_path cimport tcp_path


cdef extern from "tcp/tcp_rr_line.h" nogil:
    struct rr_start:
        uint64_t intended_ns
        uint64_t began_ns
    struct rr_line:
        int fd
        uint32_t index
        uint32_t in_flight
        uint64_t to_send
        uint64_t received
        tcp_path path
    uint64_t rr_line_waits_since(const rr_line *l)
    void rr_line_begin(rr_line *l, uint64_t intended_ns, uint64_t began_ns, uint64_t bytes)
    int rr_line_send(rr_line *l, const void *request, uint64_t bytes)
    void rr_line_await_room(const rr_line *l)
    rr_start rr_line_end(rr_line *l, uint64_t now_ns, uint64_t *timeouts)
    void rr_line_look(rr_line *l, uint64_t now_ns, uint64_t *timeouts)
    struct rr_slots:
        uint32_t count
        uint32_t free
    uint32_t rr_slots_take(rr_slots *s)
    void rr_slots_give(rr_slots *s, uint32_t line)
    struct rr_lines:
        rr_line *line
        uint32_t count
        rr_slots slots
    int rr_lines_make(rr_lines *a, uint32_t count, uint32_t depth)
    void rr_lines_free(rr_lines *a)
