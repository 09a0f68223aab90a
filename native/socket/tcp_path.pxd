"""tcp_path.h: what the kernel says of one TCP connection."""

from libc.stdint cimport uint64_t


cdef extern from "socket/tcp_path.h" nogil:
    enum:
        TCP_PATH_NAME_BYTES
    struct silence:
        uint64_t no_ack_ns
        uint64_t unanswered_ns
        uint64_t awaiting_since_ns
    struct tcp_path:
        silence silence
        uint64_t retransmitted_segments
        uint64_t reordering_events
        uint64_t busy_ns
        uint64_t rwnd_limited_ns
        uint64_t sndbuf_limited_ns
        uint64_t rtt_ns
        uint64_t min_rtt_ns
        uint64_t cwnd_segments
        uint64_t delivery_bytes_per_s
        uint64_t delivery_app_limited
        uint64_t path_mtu_bytes
        uint64_t mss_bytes
        uint64_t reordering_segments
    void tcp_path_init(tcp_path *p)
    int tcp_path_read(tcp_path *p, int fd, uint64_t now_ns)
    bint tcp_path_undrained(int state)
    void tcp_path_watch(tcp_path *p, int fd, uint64_t now_ns)
    int tcp_congestion_control(int fd, char *name)
