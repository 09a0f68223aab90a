"""session.h: what the two ends of a session say to each other."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "session.h" nogil:
    enum:
        SESSION_ID_BYTES
        SESSION_NONCE_BYTES
        SESSION_MAX_TERMS
        SESSION_MAX_SOCKETS
        SESSION_MAX_BINS
        SESSION_MAX_MESSAGE
        SESSION_MAX_DURATION_MS
        SESSION_MIN_KEY
        SESSION_MAX_KEY
        SHA256_BYTES
        KIND_TCP_STREAM
        KIND_TCP_RR
        MODE_COPY
        MODE_DISCARD
        MODE_BLOCK
        MODE_SPIN
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
        uint16_t mode
        uint32_t interval_ms
        uint32_t duration_ms
        uint32_t request_bytes
        uint32_t response_bytes
    struct results:
        uint16_t bins
        uint64_t bytes
        uint64_t operations
        uint64_t first_ns
        uint64_t last_ns
        uint64_t cpu_ns
    int session_terms_sound(uint8_t kind, const session_terms *t)
    int hello_measure(const uint8_t *data, size_t received)
    size_t hello_pack(uint8_t *out, const session_key *k, hello h, const session_terms *terms)
    int hello_verify(const uint8_t *hello, size_t size, const session_key *k)


cdef extern from "sha256.h" nogil:
    struct hmac:
        pass
    void hmac_init(hmac *m, const uint8_t *key, size_t size)
    void hmac_update(hmac *m, const void *data, size_t size)
    void hmac_final(hmac *m, uint8_t *mac)


cdef int session_key_set(session_key *k, bytes key) except -1
cdef int session_id_set(uint8_t *to, bytes session_id) except -1
