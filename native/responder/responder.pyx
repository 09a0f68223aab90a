"""Owner of one responder (responder.h): it serves the sessions it was told to admit, whatever Python does meanwhile."""

import os
from errno import EAGAIN, EMFILE, EUSERS
from resource import RLIMIT_NOFILE, getrlimit

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.counters cimport counter_read
from cvmprobe.native.responder cimport (
    ADMISSION_MAX, ADMISSION_MAX_VALID_MS, COUNT_COMPLETED, COUNT_CONNECTIONS, COUNT_COOKIES, COUNT_CUT, COUNT_FORGED,
    COUNT_HELLOS, COUNT_MALFORMED, COUNT_REFUSED, COUNT_REPLAYED, COUNT_SESSIONS, COUNT_SHORT, COUNT_TIMED_OUT,
    COUNT_UNKNOWN, RESPONDER_MAX_SERVICES, RESPONDER_MAX_SESSIONS, responder, responder_admit, responder_admit_any,
    responder_close, responder_open, responder_revoke, responder_sessions, responder_spent,
)
from cvmprobe.native.session cimport (
    KIND_TCP_CRR, KIND_TCP_RR, KIND_TCP_STREAM, KIND_UDP_RR, KIND_UDP_STREAM, RESULT_UNKNOWN, SESSION_ID_BYTES,
    session_id_set, session_key, session_key_set,
)
from cvmprobe.native.session import KINDS
from cvmprobe.native.tcp_crr cimport tcp_crr_serve
from cvmprobe.native.tcp_rr cimport tcp_rr_serve
from cvmprobe.native.tcp_stream_service cimport tcp_stream_serve
from cvmprobe.native.udp_rr_service cimport udp_rr_serve
from cvmprobe.native.udp_stream_service cimport udp_stream_serve

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

COUNTS = {
    "connections": COUNT_CONNECTIONS,
    "hellos": COUNT_HELLOS,
    "malformed": COUNT_MALFORMED,
    "unknown": COUNT_UNKNOWN,
    "forged": COUNT_FORGED,
    "replayed": COUNT_REPLAYED,
    "refused": COUNT_REFUSED,
    "timed_out": COUNT_TIMED_OUT,
    "sessions": COUNT_SESSIONS,
    "completed": COUNT_COMPLETED,
    "cut": COUNT_CUT,
    "cookies": COUNT_COOKIES,
    "short": COUNT_SHORT,
}


cdef void serve_all_kinds(responder *r) noexcept:
    """The one table of who serves what; a kind that is not here is admitted by nobody."""
    r.serve[KIND_TCP_STREAM] = tcp_stream_serve
    r.serve[KIND_TCP_RR] = tcp_rr_serve
    r.serve[KIND_TCP_CRR] = tcp_crr_serve
    r.serve[KIND_UDP_RR] = udp_rr_serve
    r.serve[KIND_UDP_STREAM] = udp_stream_serve
    r.grouped[KIND_TCP_RR] = True
    r.grouped[KIND_UDP_RR] = True


cdef uint64_t valid_until_ns(uint64_t valid_for_ms) except 0:
    if valid_for_ms > ADMISSION_MAX_VALID_MS:
        raise UsageError(f"an admission is valid for {ADMISSION_MAX_VALID_MS} ms at the most, not {valid_for_ms}")
    return clock_now_ns() + valid_for_ms * 1_000_000


cdef class Responder:
    """Listens on a numeric address (port 0: the kernel's choice) until closed. Raises EngineError."""

    cdef responder *_r
    cdef readonly int port

    def __cinit__(self, str host not None, uint16_t port=0):
        cdef const char *call = NULL
        cdef bytes address = host.encode()
        self._r = <responder *>aligned_alloc(64, (sizeof(responder) + 63) // 64 * 64)
        if self._r is NULL:
            raise MemoryError("no room for a responder")
        memset(self._r, 0, sizeof(responder))
        serve_all_kinds(self._r)
        cdef int error = responder_open(self._r, address, port, &call)
        if error < 0:
            self.close()
            raise EngineError(call.decode(), -error, f"listen on {host} port {port}")
        self.port = self._r.port

    def __dealloc__(self):
        self.close()

    def admit(self, bytes session_id not None, bytes key not None, str probe not None, *, uint64_t valid_for_ms,
              uint64_t max_bytes):
        """Let the initiator that holds this key in, for so long and so many bytes of payload in all.

        Admitting the same id, key and probe again renews it: a new end, and a new allowance. Raises UsageError.
        """
        cdef uint8_t[SESSION_ID_BYTES] name
        cdef session_key k
        self._must_be_open()
        session_id_set(name, session_id)
        session_key_set(&k, key)
        if probe not in KINDS or not self._r.serve[<int>KINDS[probe]]:
            raise UsageError(f"no responder serves {probe!r}; look in the catalog of this build")
        cdef uint8_t kind = KINDS[probe]
        cdef uint64_t until_ns = valid_until_ns(valid_for_ms)
        cdef int error
        with nogil:
            error = responder_admit(self._r, name, &k, kind, until_ns, max_bytes)
        if error < 0:
            raise UsageError(f"{ADMISSION_MAX} sessions are admitted already: revoke one")

    def admit_any(self, bytes key not None, *, uint64_t valid_for_ms, uint64_t max_bytes):
        """Let in any session id and probe under this key, each session for so many bytes of payload.

        Each nonce is good once for as long as the key stays. The same key again is a new end, also for the sessions
        that run; another key ends them. Raises UsageError.
        """
        cdef session_key k
        self._must_be_open()
        session_key_set(&k, key)
        cdef uint64_t until_ns = valid_until_ns(valid_for_ms)
        with nogil:
            responder_admit_any(self._r, &k, until_ns, max_bytes)

    def spent(self, bytes session_id not None):
        """Bytes of payload that this id's sessions have moved since it was admitted; None for one that is not."""
        cdef uint8_t[SESSION_ID_BYTES] name
        cdef uint64_t spent
        self._must_be_open()
        session_id_set(name, session_id)
        with nogil:
            spent = responder_spent(self._r, name)
        return None if spent == RESULT_UNKNOWN else spent

    def revoke(self, bytes session_id not None):
        """Forget an admission and cut its session; does nothing for one that is not there."""
        cdef uint8_t[SESSION_ID_BYTES] name
        self._must_be_open()
        session_id_set(name, session_id)
        with nogil:
            responder_revoke(self._r, name)

    def counters(self):
        """Return what has happened so far, monotone, and `active`: the sessions that are open now."""
        self._must_be_open()
        counts = {name: counter_read(&self._r.counts[<int>index]) for name, index in COUNTS.items()}
        with nogil:
            active = responder_sessions(self._r)
        counts["active"] = active
        return counts

    @property
    def shortage(self):
        """What was not to be had for the last one who could not be served (see the counter `short`); None: nothing."""
        self._must_be_open()
        cdef const char *call = self._r.short_of
        if call is NULL:
            return None
        error = self._r.short_errno
        if error == EUSERS:
            reason = f"{RESPONDER_MAX_SESSIONS} sessions or {RESPONDER_MAX_SERVICES} threads are served already"
        elif error == EMFILE:
            soft, _ = getrlimit(RLIMIT_NOFILE)
            reason = f"all {soft} descriptors are in use; raise RLIMIT_NOFILE, a session takes 3 and more"
        elif error == EAGAIN:
            reason = "no thread more is allowed; raise pids.max or RLIMIT_NPROC"
        else:
            reason = os.strerror(error)
        return f"{call.decode()}: {reason}"

    def close(self):
        """Cut all sessions, join all threads; does nothing the second time."""
        cdef responder *r = self._r
        self._r = NULL
        if r is NULL:
            return
        with nogil:
            responder_close(r)
            free(r)

    cdef int _must_be_open(self) except -1:
        if self._r is NULL:
            raise RuntimeError("the responder is closed")
        return 0
