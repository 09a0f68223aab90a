"""session.h: what the two ends of a session say to each other."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "session/session.h" nogil:
    enum:
        SESSION_ID_BYTES
        SESSION_NONCE_BYTES
        SESSION_MAX_TERMS
        SESSION_MAX_SOCKETS
        SESSION_MAX_BINS
        SESSION_MAX_MESSAGE
        SESSION_MIN_TOKEN
        SESSION_MAX_SHORT
        SESSION_MAX_DURATION_MS
        SESSION_MIN_KEY
        SESSION_MAX_KEY
        SHA256_BYTES
        KIND_TCP_STREAM
        KIND_TCP_RR
        KIND_TCP_CRR
        KIND_UDP_RR
        KIND_UDP_STREAM
        DIRECTION_FORWARD
        DIRECTION_REVERSE
        DIRECTION_BOTH
        WAIT_BLOCK
        WAIT_SPIN
        WAIT_EPOLL
        RECEIVE_COPY
        RECEIVE_DISCARD
        OFFLOAD_BEST
        OFFLOAD_GSO
        OFFLOAD_MMSG
        OFFLOAD_NONE
        SESSION_MAX_STREAMS
        SESSION_MIN_DATAGRAM
        SESSION_MAX_DATAGRAM
        SESSION_CONGESTION_BYTES
        RESULT_BYTES
        RESULT_OPERATIONS
        RESULT_FIRST_NS
        RESULT_LAST_NS
        RESULT_CPU_NS
        RESULT_RUN_DELAY_NS
        RESULT_SENT_BYTES
        RESULT_SENT_OPERATIONS
        RESULT_RETRANSMITTED_SEGMENTS
        RESULT_LOST
        RESULT_DUPLICATES
        RESULT_REORDERED
        RESULT_REORDER_EXTENT
        RESULT_JITTER_NS
        RESULT_SOCKET_DROPS
        RESULT_SEND_ERRORS
        RESULT_NODE_BUSY_NS
        RESULT_NODE_IRQ_NS
        RESULT_NODE_SOFTIRQ_NS
        RESULT_NODE_BASELINE_NS
        RESULT_BUSY_NS
        RESULT_RWND_LIMITED_NS
        RESULT_SNDBUF_LIMITED_NS
        RESULT_REORDERING_EVENTS
        RESULT_RTT_NS
        RESULT_MIN_RTT_NS
        RESULT_PATH_MTU_BYTES
        RESULT_MSS_BYTES
        RESULT_CONGESTION
        RESULT_SEND_OFFLOAD
        RESULT_RECEIVE_OFFLOAD
        SERIES_BYTES
        SERIES_OPERATIONS
        SERIES_SENT_BYTES
        SERIES_SENT_OPERATIONS
        SERIES_COUNT
    const uint64_t RESULT_UNKNOWN
    struct session_key:
        uint32_t size
        uint8_t *bytes
    struct hello:
        uint8_t kind
        uint16_t index
        uint8_t *session_id
        uint8_t *nonce
        uint8_t *control_nonce
    struct session_terms:
        uint16_t sockets
        uint8_t direction
        uint8_t wait
        uint8_t receive
        uint8_t dscp
        uint8_t offload
        uint32_t interval_ms
        uint32_t duration_ms
        uint32_t request_bytes
        uint32_t response_bytes
        uint32_t sndbuf_bytes
        uint32_t rcvbuf_bytes
        uint32_t mss
        uint64_t rate_bytes_per_s
        uint64_t byte_limit
        char *congestion
    struct results:
        uint16_t bins
        uint64_t *counts
    uint32_t session_bins(uint8_t kind, const session_terms *t)
    bint session_responder_sends(const session_terms *t, uint32_t index)
    int session_kind_is_udp(uint8_t kind)
    int session_terms_sound(uint8_t kind, const session_terms *t)
    int hello_measure(const uint8_t *data, size_t received)
    size_t hello_pack(uint8_t *out, const session_key *k, hello h, const session_terms *terms)
    int hello_verify(const uint8_t *hello, size_t size, const session_key *k)


cdef extern from "session/sha256.h" nogil:
    struct hmac:
        pass
    void hmac_init(hmac *m, const uint8_t *key, size_t size)
    void hmac_update(hmac *m, const void *data, size_t size)
    void hmac_final(hmac *m, uint8_t *mac)


cdef int session_key_set(session_key *k, bytes key) except -1
cdef int session_id_set(uint8_t *to, bytes session_id) except -1
cdef int session_terms_set(session_terms *t, dict terms) except -1
