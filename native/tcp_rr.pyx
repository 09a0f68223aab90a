"""Request and response over one TCP connection, one at a time: the full round trip, never half of it.

    closed loop  |-------- latency --------|-------- latency --------| …        one clock read (CLOCK_MONOTONIC) each
                 send request … last byte of the response, the next request starts here

    paced        intended   sent                     response
                    |         |------ service_ns ------|
                    |------------- latency ------------|      a late start is charged to the latency

wait=block sleeps in recv, wait=spin asks without sleeping; both ends wait alike. A row of the ring: t_ns intended
start, value_ns latency, kind 0, aux 0.
"""

from libc.errno cimport EAGAIN, EINTR, ENOMEM, EPROTO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.counters cimport counter_add
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.initiator cimport INITIATOR_DRAIN_NS, Initiator, await_results, initiator, initiator_reserve
from cvmprobe.native.pace cimport PACE_LATE_NS, pace, pace_init, pace_start, pace_wait
from cvmprobe.native.ring cimport ring, ring_push
from cvmprobe.native.service cimport service, service_count, service_running
from cvmprobe.native.session cimport KIND_TCP_RR, SESSION_MAX_MESSAGE, WAIT_BLOCK, WAIT_SPIN
from cvmprobe.native.tcp_path cimport TCP_PATH_NAME_BYTES, tcp_congestion_control
from cvmprobe.native.worker cimport worker, worker_fail, worker_running


cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SHUT_WR
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    int shutdown(int fd, int how)


cdef enum:
    RING_ROWS = 1 << 18
    SPIN_NS = 50000  # of the end of a pause, when waiting by spinning
    UNANSWERED_NS = 1000000000  # a transaction that takes longer is a timeout, counted once
    LOOKS = 256  # tries of a spinning reader between two looks at the clock
    IDLE_NS = 100000000  # a spinning responder that hears nothing for so long sleeps until it does


cdef struct caller:
    worker worker
    initiator *session
    uint8_t *buffer
    pace pace
    bint paced
    uint64_t transactions
    uint64_t late_operations
    uint64_t timeouts
    ring ring
    histogram latency
    histogram service


cdef bint may_wait(caller *c, uint64_t began, bint *counted) noexcept nogil:
    """Look up while nothing comes: count a timeout, and tell whether to wait on."""
    cdef uint64_t now = clock_now_ns()
    if now - began >= UNANSWERED_NS and not counted[0]:
        counted[0] = True
        counter_add(&c.timeouts, 1)
    return worker_running(&c.worker) and (
        now < c.worker.deadline_ns or now - c.worker.deadline_ns < INITIATOR_DRAIN_NS
    )


cdef bint exchange(caller *c, int fd, uint64_t began) noexcept nogil:
    """Send the request, receive the whole response. Returns whether it is there; a failure is kept in the worker."""
    cdef uint64_t to_send = c.session.terms.request_bytes
    cdef uint64_t to_come = c.session.terms.response_bytes
    cdef int flags = MSG_DONTWAIT if c.session.terms.wait == WAIT_SPIN else 0
    cdef uint32_t looks = 0
    cdef bint counted = False
    cdef ssize_t n
    while to_come:
        if to_send:
            n = send(fd, c.buffer, to_send, MSG_NOSIGNAL)
        else:
            n = recv(fd, c.buffer, to_come, flags)
        if n > 0 and to_send:
            to_send -= <uint64_t>n
        elif n > 0:
            to_come -= <uint64_t>n
        elif n == 0 or (errno != EAGAIN and errno != EINTR):
            if worker_running(&c.worker):
                worker_fail(&c.worker, b"recv" if not to_send else b"send", errno if n else EPROTO)
            return False
        else:
            looks += 1
            if (not flags or looks % LOOKS == 0) and not may_wait(c, began, &counted):
                return False
    return True


cdef void record(caller *c, uint64_t intended, uint64_t began, uint64_t ended) noexcept nogil:
    histogram_record(&c.latency, ended - intended)
    ring_push(&c.ring, intended, ended - intended, 0, 0, 0)
    counter_add(&c.transactions, 1)
    if c.paced:
        histogram_record(&c.service, ended - began)
        counter_add(&c.late_operations, began - intended > PACE_LATE_NS)


cdef void call_loop(caller *c, int fd) noexcept nogil:
    cdef uint64_t whole = c.session.terms.request_bytes + c.session.terms.response_bytes
    cdef uint64_t now = clock_now_ns()
    cdef uint64_t intended, began
    pace_start(&c.pace, c.worker.start_ns)
    while now < c.worker.deadline_ns and worker_running(&c.worker):
        intended = began = now
        if c.paced:
            intended = pace_wait(&c.pace, &c.worker.running, c.worker.deadline_ns)
            if not intended:
                return
            began = clock_now_ns()
        if initiator_reserve(c.session, whole) < whole or not exchange(c, fd, began):
            return
        now = clock_now_ns()
        record(c, intended, began, now)


cdef void tcp_rr_loop(worker *w) noexcept nogil:
    cdef caller *c = <caller *>w
    if w.index == c.session.terms.sockets:
        await_results(w, c.session)
        return
    call_loop(c, c.session.fds[1])
    if worker_running(w):
        shutdown(c.session.fds[1], SHUT_WR)


cdef ssize_t receive_spinning(service *v, uint64_t size) noexcept nogil:
    """Receive without sleeping, for as long as the initiator keeps asking."""
    cdef uint64_t began = 0
    cdef uint32_t looks = 0
    cdef ssize_t n
    while service_running(v):
        n = recv(v.fd, v.buffer, size, MSG_DONTWAIT)
        if n >= 0 or (errno != EAGAIN and errno != EINTR):
            return n
        looks += 1
        if looks % LOOKS:
            continue
        if not began:
            began = clock_now_ns()
        elif clock_now_ns() - began > IDLE_NS:
            return recv(v.fd, v.buffer, size, 0)
    return 0


cdef int serve_request(service *v) noexcept nogil:
    """Take one request and answer it. Returns 1, 0 at the initiator's FIN, or -errno."""
    cdef uint64_t to_come = v.terms.request_bytes
    cdef uint64_t to_send = v.terms.response_bytes
    cdef ssize_t n
    while to_send:
        if to_come and v.terms.wait == WAIT_SPIN:
            n = receive_spinning(v, to_come)
        elif to_come:
            n = recv(v.fd, v.buffer, to_come, 0)
        else:
            n = send(v.fd, v.buffer, to_send, MSG_NOSIGNAL)
        if n < 0 and errno != EINTR:
            return -errno
        if n == 0:
            return 0 if to_come == v.terms.request_bytes and service_running(v) else -EPROTO
        if n > 0 and to_come:
            to_come -= <uint64_t>n
        elif n > 0:
            to_send -= <uint64_t>n
    return 1


cdef int tcp_rr_serve(service *v) noexcept nogil:
    """Answer requests until FIN. Returns 0 for that, else -errno."""
    cdef uint64_t whole = v.terms.request_bytes + v.terms.response_bytes
    cdef int r = 1
    while r == 1:
        r = serve_request(v)
        if r == 1:
            if service_count(v, whole, 1, clock_now_ns()):
                return -EPROTO
    return r


cdef class TcpRr(Initiator):
    """One transaction after the other (`rate_per_s` 0), or `rate_per_s` of them in a second, late or not.

    Without `duration_ms` it goes on until stop(). `dials` as in initiator.h; `giving_up` is asked every 50 ms while
    dialing. Raises UsageError for what no responder would keep.
    """

    cdef double _rate_per_s
    cdef uint64_t _rows

    def __init__(self, *, str host not None, uint16_t port, bytes session_id not None, bytes key not None,
                 uint64_t max_bytes, duration_ms=None, unsigned int request_bytes=1, unsigned int response_bytes=1,
                 bint spin=False, double rate_per_s=0, bint raw_samples=False, str placement not None="inherit",
                 uint32_t dials=0, giving_up=lambda: False):
        super().__init__(placement=placement, duration_ms=duration_ms)
        for name, size in (("request", request_bytes), ("response", response_bytes)):
            if not 0 < size <= SESSION_MAX_MESSAGE:
                raise UsageError(f"a {name} of {size} bytes: there may be 1 to {SESSION_MAX_MESSAGE}")
        if not 0 <= rate_per_s <= 1e6:
            raise UsageError(f"{rate_per_s} transactions a second: there may be 0 (one after the other) to 1000000")
        terms = {
            "wait": WAIT_SPIN if spin else WAIT_BLOCK,
            "interval_ms": 1000,  # no bins are kept
            "duration_ms": duration_ms or 0,
            "request_bytes": request_bytes,
            "response_bytes": response_bytes,
        }
        self._invite(KIND_TCP_RR, terms, (host, port, session_id, key, max_bytes, dials, giving_up))
        self._rate_per_s = rate_per_s
        self._rows = RING_ROWS if raw_samples else 0
        self._facts["engine"] = "tcp_rr"
        self._facts["wait"] = "spin" if spin else "block"
        self._staff(2, sizeof(caller), tcp_rr_loop, NULL)

    cdef int _outfit(self, worker *w) except -1:
        cdef caller *c = <caller *>w
        c.session = &self._session
        if w.index == self._session.terms.sockets:
            return 0
        c.buffer = <uint8_t *>calloc(1, max(self._session.terms.request_bytes, self._session.terms.response_bytes))
        if c.buffer is NULL:
            raise EngineError("calloc", ENOMEM, "make room for a request")
        c.paced = self._rate_per_s > 0
        pace_init(&c.pace, self._rate_per_s, False, 0, SPIN_NS if self._session.terms.wait == WAIT_SPIN else 0)
        self._count("transactions", &c.transactions)
        self._count("timeouts", &c.timeouts)
        self._observe("latency_ns", &c.latency)
        if c.paced:
            self._count("late_operations", &c.late_operations)
            self._observe("service_ns", &c.service)
        return self._sample(&c.ring, self._rows)

    cdef void _retire(self, worker *w) noexcept nogil:
        free((<caller *>w).buffer)

    cdef int _open(self) except -1:
        cdef char[TCP_PATH_NAME_BYTES] name
        Initiator._open(self)
        if tcp_congestion_control(self._session.fds[1], name) == 0:
            self._facts["congestion_control"] = name.decode()
        return 0
