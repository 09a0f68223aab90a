"""initiator.h, and what every engine with a peer shares: its session."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from cvmprobe.native.budget cimport budget
from cvmprobe.native.engine cimport Engine
from cvmprobe.native.session cimport hello, results, session_key, session_terms
from cvmprobe.native.sys_socket cimport sockaddr_storage, socklen_t
from cvmprobe.native.worker cimport worker


cdef extern from "session/socket_options.h" nogil:
    enum:
        OPTION_DSCP
        OPTION_SNDBUF
        OPTION_RCVBUF
        OPTION_MSS
        OPTION_RATE
        OPTION_CONGESTION
    struct refusal:
        uint32_t option
        uint32_t error


cdef extern from "session/initiator.h" nogil:
    const uint64_t INITIATOR_DRAIN_NS
    struct initiator:
        session_key key
        session_terms terms
        hello control
        sockaddr_storage address
        socklen_t address_bytes
        int *fds
        uint32_t answered
        uint32_t dialed
        uint32_t dials
        budget budget
        budget incoming
        refusal refused
        int refused_by_peer
        uint32_t complete
        results results
        uint64_t *bins
    void initiator_init(initiator *s)
    uint64_t initiator_reserve(initiator *s, uint64_t wanted)
    int initiator_take_in(initiator *s, uint64_t bytes)
    int initiator_resolve(initiator *s, const char *host, uint16_t port)
    int initiator_dial(initiator *s)
    void initiator_sent_last(initiator *s)
    int initiator_await_results(initiator *s, const uint32_t *running, uint64_t deadline_ns)
    void initiator_close(initiator *s)


cdef dict round_trip_terms(str wait, unsigned int connections, dict terms)
cdef dict stream_terms(session, str direction, unsigned int streams, dict terms)
cdef void await_results(worker *w, initiator *session) noexcept nogil


cdef class Initiator(Engine):
    cdef initiator _session
    cdef str _host
    cdef uint16_t _port
    cdef object _giving_up
    cdef bytearray _bins  # the session's
    cdef int _invite(self, uint8_t kind, dict terms, session, giving_up) except -1
    cdef int _raise_dial(self, int error) except -1
    cdef int _raise_refused(self, str peer) except -1
