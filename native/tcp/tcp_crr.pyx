"""Connect, request, response, close: one TCP connection for each transaction, one after the other.

    initiator   start      connected      first byte of the response     FIN of the responder      closed
                  |--- connect_ns ---| send     |                              |                     |
                  |---------- first_byte_ns ----|                              |                     |
                  |------------------------- latency_ns, from the intended start --------------------|
    responder                  accept … request whole, response and FIN together: so TIME_WAIT stays there

All stamps are CLOCK_MONOTONIC; the end of one transaction is the start of the next (closed loop). `socket` and two
`setsockopt` (how long a call may sleep) are part of connect_ns. Paced, latency_ns begins at the intended start and
service_ns beside it at the real one.

A connection does not say hello: its request begins with a token of 16 bytes that only the ends of this session can
make (tcp_crr_token.h). It goes to the responder's one port, where the responder's own thread answers it; to any other
token, or none, it says nothing. What that costs stands beside a plain loop in tests/bench/rr.py. The data socket of the
session carries no payload: its FIN tells the responder that the last transaction is over.

A SYN is sent again after 200 ms at the earliest, so TCP_INFO is asked only of connections that took half of that. At
most 90 % of ip_local_port_range are opened in any 60 s of an execution; then, or when the kernel has no port left, the
transactions end and `ports_short` counts it. A later execution begins with a whole range: where both ends keep TCP time
stamps, the responder's TIME_WAIT gives way to a new connection from the same port. A row of the ring: t_ns intended
start, value_ns latency, kind 0, aux 0.
"""

from pathlib import Path

from libc.errno cimport EADDRNOTAVAIL, EAGAIN, EINPROGRESS, EINTR, EPROTO, errno
from libc.stdint cimport uint8_t, uint64_t

from cvmprobe.errors import UsageError

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.counters cimport COUNTER_UNKNOWN, counter_add, counter_read
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.initiator cimport INITIATOR_DRAIN_NS, Initiator, await_results, initiator, initiator_reserve
from cvmprobe.native.pace cimport PACE_LATE_NS, pace, pace_init, pace_start, pace_wait
from cvmprobe.native.port_budget cimport port_budget, port_budget_init, port_budget_take
from cvmprobe.native.ring cimport ring, ring_push
from cvmprobe.native.session cimport KIND_TCP_CRR, SESSION_MAX_SHORT, SESSION_MIN_TOKEN, hello, session_key
from cvmprobe.native.sys_socket cimport (
    MSG_NOSIGNAL, SHUT_WR, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, SO_RCVTIMEO, SO_SNDTIMEO, connect, recv, send,
    setsockopt, shutdown, sockaddr, socket,
)
from cvmprobe.native.tcp_path cimport (
    TCP_PATH_NAME_BYTES, tcp_congestion_control, tcp_path, tcp_path_init, tcp_path_read,
)
from cvmprobe.native.worker cimport worker, worker_fail, worker_running

PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of IPv6, too


cdef extern from "session/tcp_crr_token.h" nogil:
    void tcp_crr_token(const session_key *k, const hello *control, uint8_t *token)

cdef extern from "<errno.h>" nogil:
    enum:
        EALREADY
        EISCONN

cdef extern from "<sys/time.h>" nogil:
    struct timeval:
        long tv_sec
        long tv_usec

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef enum:
    RING_ROWS = 1 << 18
    BUFFER_BYTES = 16384
    SLICE_US = 50000  # longest sleep without a look at whether to go on
    UNANSWERED_NS = 1000000000  # a transaction that takes longer is a timeout, counted once
    SLOW_CONNECT_NS = 100000000  # half of the least time after which a SYN is sent again


cdef struct connector:
    worker worker
    initiator *session
    pace pace
    bint paced
    port_budget ports
    uint64_t began  # stamps of the transaction under way
    uint64_t connected
    uint64_t first_byte
    bint overdue  # it is counted as a timeout
    uint64_t transactions
    uint64_t late_operations
    uint64_t timeouts
    uint64_t syn_retransmits
    uint64_t ports_short
    ring ring
    histogram latency
    histogram service
    histogram connect
    histogram reply
    uint8_t[BUFFER_BYTES] request  # begins with the token
    uint8_t[BUFFER_BYTES] response


cdef void count_overdue(connector *c, uint64_t now) noexcept nogil:
    if now - c.began >= UNANSWERED_NS and not c.overdue:
        c.overdue = True
        counter_add(&c.timeouts, 1)


cdef bint may_go_on(connector *c) noexcept nogil:
    """Whether there is time for the rest; what runs at the deadline is waited for, for the drain."""
    cdef uint64_t now = clock_now_ns()
    count_overdue(c, now)
    return worker_running(&c.worker) and (
        now < c.worker.deadline_ns or now - c.worker.deadline_ns < INITIATOR_DRAIN_NS
    )


cdef bint may_wait(connector *c) noexcept nogil:
    """Whether to go on with what has slept for a slice."""
    if errno != EAGAIN and errno != EINTR and errno != EINPROGRESS and errno != EALREADY:
        return False
    return may_go_on(c)


cdef bint fail(connector *c, const char *call, int error) noexcept nogil:
    if error == EADDRNOTAVAIL:
        counter_add(&c.ports_short, 1)
    elif error != EAGAIN and error != EINPROGRESS and error != EALREADY and worker_running(&c.worker):
        worker_fail(&c.worker, call, error)
    return False


cdef int open_socket(connector *c) noexcept nogil:
    """A socket whose calls sleep for a slice at the most; -1: there is none."""
    cdef timeval slice
    cdef int fd = socket(c.session.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0)
    slice.tv_sec = 0
    slice.tv_usec = SLICE_US
    if fd >= 0:
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof(slice))
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof(slice))
    return fd


cdef bint dial(connector *c, int fd) noexcept nogil:
    cdef tcp_path path
    while connect(fd, <sockaddr *>&c.session.address, c.session.address_bytes):
        if errno == EISCONN:  # it came about while we looked up
            break
        if not may_wait(c):
            return fail(c, b"connect", errno)
    c.connected = clock_now_ns()
    if c.connected - c.began >= SLOW_CONNECT_NS:
        tcp_path_init(&path)
        tcp_path_read(&path, fd, c.connected)
        if path.retransmitted_segments != COUNTER_UNKNOWN:
            counter_add(&c.syn_retransmits, path.retransmitted_segments)
    return True


cdef bint ask(connector *c, int fd) noexcept nogil:
    cdef uint64_t sent = 0
    cdef ssize_t n
    while sent < c.session.terms.request_bytes:
        n = send(fd, c.request + sent, c.session.terms.request_bytes - sent, MSG_NOSIGNAL)
        if n >= 0:
            sent += <uint64_t>n
        elif not may_wait(c):
            return fail(c, b"send", errno)
    return True


cdef bint hear(connector *c, int fd) noexcept nogil:
    """Receive the whole response and the responder's FIN. Whoever answers has not proved who it is."""
    cdef uint64_t whole = c.session.terms.response_bytes
    cdef uint64_t heard = 0
    cdef ssize_t n = 1
    while n and heard <= whole:
        n = recv(fd, c.response, BUFFER_BYTES, 0)
        if n > 0 and not heard:
            c.first_byte = clock_now_ns()
        if n > 0:
            heard += <uint64_t>n
            if heard < whole and not may_go_on(c):
                return False
        elif n < 0 and not may_wait(c):
            return fail(c, b"recv", errno)
    if heard == whole:
        return True
    return fail(c, b"recv the whole response", EPROTO)


cdef bint transact(connector *c, uint64_t began) noexcept nogil:
    cdef bint done
    cdef int fd = open_socket(c)
    c.began = began
    c.overdue = False
    if fd < 0:
        return fail(c, b"socket", errno)
    done = dial(c, fd) and ask(c, fd) and hear(c, fd)
    close(fd)
    return done


cdef void record(connector *c, uint64_t intended, uint64_t began, uint64_t ended) noexcept nogil:
    histogram_record(&c.connect, c.connected - began)
    histogram_record(&c.reply, c.first_byte - began)
    histogram_record(&c.latency, ended - intended)
    ring_push(&c.ring, intended, ended - intended, 0, 0, 0)
    counter_add(&c.transactions, 1)
    count_overdue(c, ended)
    if c.paced:
        histogram_record(&c.service, ended - began)
        counter_add(&c.late_operations, began - intended > PACE_LATE_NS)


cdef bint allowed(connector *c, uint64_t now) noexcept nogil:
    """Whether the session's bytes and the ports are enough for one more."""
    cdef uint64_t whole = c.session.terms.request_bytes + c.session.terms.response_bytes
    if initiator_reserve(c.session, whole) < whole:
        return False
    if not port_budget_take(&c.ports, now):
        counter_add(&c.ports_short, 1)
        return False
    return True


cdef void connect_loop(connector *c) noexcept nogil:
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
        if not allowed(c, began) or not transact(c, began):
            return
        now = clock_now_ns()
        record(c, intended, began, now)


cdef void tcp_crr_loop(worker *w) noexcept nogil:
    cdef connector *c = <connector *>w
    if w.index:
        await_results(w, c.session)
        return
    connect_loop(c)
    if worker_running(w) and not w.error_call:
        shutdown(c.session.fds[1], SHUT_WR)


cdef class TcpCrr(Initiator):
    """One connection after the other (`rate_per_s` 0), or `rate_per_s` of them in a second, late or not.

    Without `duration_ms` it goes on until stop(). Raises UsageError for what no responder would keep.
    """

    cdef double _rate_per_s
    cdef bint _poisson
    cdef uint64_t _rows
    cdef uint64_t _ports

    def __init__(self, session not None, *, duration_ms=None, unsigned int request_bytes=16,
                 unsigned int response_bytes=16, double rate_per_s=0, bint poisson=False, bint raw_samples=False,
                 str placement not None="inherit", giving_up=lambda: False):
        super().__init__(placement=placement, duration_ms=duration_ms)
        if not SESSION_MIN_TOKEN <= request_bytes <= SESSION_MAX_SHORT:
            raise UsageError(f"a request of {request_bytes} bytes: it holds a token, so there may be "
                             f"{SESSION_MIN_TOKEN} to {SESSION_MAX_SHORT}")
        if not 0 < response_bytes <= SESSION_MAX_SHORT:
            raise UsageError(f"a response of {response_bytes} bytes: there may be 1 to {SESSION_MAX_SHORT}")
        if not 0 <= rate_per_s <= 1e5:
            raise UsageError(f"{rate_per_s} connections a second: there may be 0 (one after the other) to 100000")
        terms = {
            "interval_ms": 1000,  # no bins are kept
            "duration_ms": duration_ms or 0,
            "request_bytes": request_bytes,
            "response_bytes": response_bytes,
        }
        self._invite(KIND_TCP_CRR, terms, session, giving_up)
        self._rate_per_s = rate_per_s
        self._poisson = poisson
        self._rows = RING_ROWS if raw_samples else 0
        self._facts["engine"] = "tcp_crr"
        self._staff(2, sizeof(connector), tcp_crr_loop, NULL)

    cdef int _outfit(self, worker *w) except -1:
        cdef connector *c = <connector *>w
        c.session = &self._session
        if w.index:
            return 0
        c.paced = self._rate_per_s > 0
        # starts are as random as the session's id, and the same again for the same id
        pace_init(&c.pace, self._rate_per_s, self._poisson, (<uint64_t *>self._session.control.session_id)[0], 0)
        low, high = PORT_RANGE.read_text().split()
        self._ports = int(high) - int(low) + 1
        port_budget_init(&c.ports, self._ports)
        self._count("transactions", &c.transactions)
        self._count("timeouts", &c.timeouts)
        self._count("syn_retransmits", &c.syn_retransmits)
        self._count("ports_short", &c.ports_short)
        self._observe("latency_ns", &c.latency)
        self._observe("connect_ns", &c.connect)
        self._observe("first_byte_ns", &c.reply)
        if c.paced:
            self._count("late_operations", &c.late_operations)
            self._observe("service_ns", &c.service)
        return self._sample(&c.ring, self._rows)

    cdef int _open(self) except -1:
        cdef char[TCP_PATH_NAME_BYTES] name
        Initiator._open(self)
        tcp_crr_token(&self._session.key, &self._session.control, (<connector *>self._worker(0)).request)
        if tcp_congestion_control(self._session.fds[1], name) == 0:
            self._facts["congestion_control"] = name.decode()
        return 0

    @property
    def facts(self):
        """What was found and used, and why it ended before its time if ports ran short."""
        known = dict(self._facts)
        if self._block is not NULL and self._outfitted and counter_read(&(<connector *>self._worker(0)).ports_short):
            known["ended"] = (f"ports ran short: of {self._ports} in ip_local_port_range, 90 % are used in 60 s; ask "
                              "for a rate, or a shorter time")
        return known
