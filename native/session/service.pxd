"""service.h: one data socket of a session as the responder serves it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from cvmprobe.native.budget cimport budget
from cvmprobe.native.session cimport session_terms
from cvmprobe.native.worker cimport worker


cdef extern from "session/service.h" nogil:
    enum:
        SERVICE_STREAM_BYTES
    const uint64_t SERVICE_QUIET_NS
    const uint64_t SERVICE_DRAIN_NS
    struct tally:
        uint32_t running
        budget budget
    struct service:
        worker worker
        const session_terms *terms
        tally *tally
        uint8_t *buffer
        int fd
        uint32_t tag
        uint64_t *counts
    ctypedef int (*service_loop)(service *) noexcept nogil
    int service_running(const service *s)
    int service_ended(const service *s)
    int service_drains(const service *s, uint64_t last_ns)
    int service_count(service *s, uint64_t size, uint64_t operations, uint64_t now_ns)
    int service_count_sent(service *s, uint64_t size, uint64_t operations, uint64_t now_ns)
