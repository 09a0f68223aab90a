"""responder.h: the thread that lets sessions in, and the loops that serve them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from cvmprobe.native.service cimport service_loop
from cvmprobe.native.session cimport session_key


cdef extern from "responder/responder.h" nogil:
    enum:
        ADMISSION_MAX
        ADMISSION_MAX_VALID_MS
        COUNT_CONNECTIONS
        COUNT_HELLOS
        COUNT_MALFORMED
        COUNT_UNKNOWN
        COUNT_FORGED
        COUNT_REPLAYED
        COUNT_REFUSED
        COUNT_TIMED_OUT
        COUNT_SESSIONS
        COUNT_COMPLETED
        COUNT_CUT
        COUNT_COOKIES
        COUNT_SHORT
        RESPONDER_MAX_SESSIONS
        RESPONDER_MAX_SERVICES
    struct responder:
        service_loop *serve
        int *grouped
        uint16_t port
        const char *short_of
        int short_errno
        uint64_t *counts
    int responder_open(responder *r, const char *host, uint16_t port, const char **call)
    uint32_t responder_sessions(responder *r)
    int responder_admit(responder *r, const uint8_t *session_id, const session_key *key, uint8_t kind,
                        uint64_t valid_until_ns, uint64_t max_bytes)
    void responder_admit_any(responder *r, const session_key *key, uint64_t valid_until_ns, uint64_t max_bytes)
    uint64_t responder_spent(responder *r, const uint8_t *session_id)
    void responder_revoke(responder *r, const uint8_t *session_id)
    void responder_close(responder *r)
