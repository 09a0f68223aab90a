"""Request and response in single datagrams over connected UDP sockets: the full round trip, never half of it.

    closed loop  |-------- latency --------|-------- latency --------| …        one clock read (CLOCK_MONOTONIC) each
                 send request … response, the next request starts here          `depth` of them on each socket

    paced        intended   sent                     response                   sent when due, whatever is under way
                    |         |------ service_ns ------|
                    |------------- latency ------------|      a late start is charged to the latency

    kernel stamps      at the kernel             recv returns
                          |------- wakeup_ns -------|                           both ends from CLOCK_REALTIME

    lost         sent ─────── patience ─────── a timeout; nothing waits for it. A response after it is late.

One thread sends and receives for all sockets. wait=block sleeps in recv on one socket, wait=spin asks without
sleeping, wait=epoll sleeps over many; both ends wait alike. A row of the ring: t_ns intended start, value_ns latency,
kind 0, aux the socket.
"""

import os

from libc.errno cimport EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINTR, ENETUNREACH, ENOMEM, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.clock cimport clock_now_ns, clock_real_ns
from cvmprobe.native.counters cimport counter_add
from cvmprobe.native.flight cimport (
    FLIGHT_DUPLICATE, FLIGHT_IN_TIME, FLIGHT_LATE, FLIGHT_SLOTS, flight, flight_begin, flight_expire,
    flight_is_full, flight_land, flight_slot,
)
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.initiator cimport (
    Initiator, await_results, initiator, initiator_reserve, initiator_sent_last, round_trip_terms,
)
from cvmprobe.native.kernel_stamp cimport kernel_stamp_ask, kernel_stamp_recv
from cvmprobe.native.pace cimport PACE_LATE_NS, pace, pace_init, pace_next, pace_start
from cvmprobe.native.ring cimport ring, ring_push
from cvmprobe.native.session cimport (
    KIND_UDP_RR, SESSION_MAX_DATAGRAM, SESSION_MAX_SOCKETS, SESSION_MIN_DATAGRAM, WAIT_BLOCK, WAIT_SPIN, session_terms,
)
from cvmprobe.native.sys_socket cimport MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC, recv, send
from cvmprobe.native.udp_datagram cimport udp_header, udp_header_read, udp_tag
from cvmprobe.native.watch cimport watch, watch_close, watch_index, watch_input, watch_open, watch_wait
from cvmprobe.native.worker cimport worker, worker_running


cdef enum:
    RING_ROWS = 1 << 18
    SLICE_NS = 50000000  # longest sleep without a look at `running`
    MAX_DEPTH = 256
    MAX_TIMEOUT_MS = 1000  # what is under way at the deadline must be over before the drain is


cdef struct slot:
    uint64_t since_ns
    uint32_t socket


cdef struct caller:
    worker worker
    initiator *session
    uint8_t *buffer
    slot *idle  # closed loop: what is free for another request
    uint32_t idle_count
    bint asleep  # in recv of the only socket
    bint stamping
    watch watch
    bint spent  # the session's budget of bytes
    flight flight
    pace pace
    uint64_t due_ns  # paced: intended start of the next request
    uint64_t requests
    uint64_t transactions
    uint64_t late_operations
    uint64_t timeouts
    uint64_t late_responses
    uint64_t duplicates
    uint64_t send_errors
    uint64_t refused
    uint64_t unreachable
    ring ring
    histogram latency
    histogram service
    histogram wakeup


cdef void note_error(caller *c, int error) noexcept nogil:
    """Count what a socket says of datagrams that it sent before (ICMP), or could not send."""
    if error == ECONNREFUSED:
        counter_add(&c.refused, 1)
    elif error == EHOSTUNREACH or error == ENETUNREACH:
        counter_add(&c.unreachable, 1)
    elif error != EAGAIN and error != EINTR:
        counter_add(&c.send_errors, 1)


cdef void send_request(caller *c, uint32_t socket, uint64_t intended, uint64_t now) noexcept nogil:
    """Send one request. One that could not be sent is never answered, and times out like any other."""
    cdef udp_header h
    cdef int tries = 2  # an error of an earlier datagram is told instead of sending this one
    h.tag = udp_tag(&c.session.control, <uint16_t>(socket + 1))
    h.sent_ns = <uint32_t>now
    h.sequence = flight_begin(&c.flight, socket, intended, now)
    memcpy(c.buffer, &h, sizeof(h))
    counter_add(&c.requests, 1)
    while tries and send(c.session.fds[socket + 1], c.buffer, c.session.terms.request_bytes, MSG_NOSIGNAL) < 0:
        note_error(c, errno)
        tries -= 1


cdef bint may_send(caller *c, uint64_t now) noexcept nogil:
    """Whether the deadline, the session's budget and the loop allow another request now."""
    cdef uint64_t whole = c.session.terms.request_bytes + c.session.terms.response_bytes
    if now >= c.worker.deadline_ns or c.spent or flight_is_full(&c.flight):
        return False
    if (c.due_ns > now) if c.due_ns else (not c.idle_count):
        return False
    c.spent = initiator_reserve(c.session, whole) < whole
    return not c.spent


cdef void send_due(caller *c, uint64_t now) noexcept nogil:
    """Send what may be sent now; in a closed loop the latency begins where the slot became free.

    Paced it is one at a time: behind a rate that is too high something is always due, and responses come meanwhile.
    """
    cdef slot *free_slot
    if c.due_ns and may_send(c, now):
        counter_add(&c.late_operations, now - c.due_ns > PACE_LATE_NS)
        send_request(c, <uint32_t>(c.flight.next % c.session.terms.sockets), c.due_ns, now)
        c.due_ns = pace_next(&c.pace)
    while not c.due_ns and may_send(c, now):
        c.idle_count -= 1
        free_slot = &c.idle[c.idle_count]
        send_request(c, free_slot.socket, free_slot.since_ns, now)


cdef void set_free(caller *c, uint32_t socket, uint64_t now) noexcept nogil:
    if not c.due_ns:
        c.idle[c.idle_count].socket = socket
        c.idle[c.idle_count].since_ns = now
        c.idle_count += 1


cdef void take_response(caller *c, uint64_t sequence, uint64_t now) noexcept nogil:
    cdef flight_slot *slot = NULL
    cdef int arrival = flight_land(&c.flight, sequence, &slot)
    if arrival == FLIGHT_IN_TIME:
        histogram_record(&c.latency, now - slot.intended_ns)
        ring_push(&c.ring, slot.intended_ns, now - slot.intended_ns, 0, 0, <uint16_t>slot.socket)
        counter_add(&c.transactions, 1)
        if c.due_ns:
            histogram_record(&c.service, now - slot.began_ns)
        set_free(c, slot.socket, now)
    elif arrival == FLIGHT_LATE:
        counter_add(&c.late_responses, 1)
    elif arrival == FLIGHT_DUPLICATE:
        counter_add(&c.duplicates, 1)


cdef bint receive(caller *c, uint32_t socket, int flags, uint64_t *now) noexcept nogil:
    """Take one datagram of a socket. Returns whether there was one; *now is then when."""
    cdef int fd = c.session.fds[socket + 1]
    cdef uint32_t wanted = c.session.terms.response_bytes
    cdef uint64_t real, stamp = 0
    cdef udp_header h
    cdef ssize_t n
    if c.stamping:
        n = kernel_stamp_recv(fd, c.buffer, wanted, flags | MSG_TRUNC, &stamp)
    else:
        n = recv(fd, c.buffer, wanted, flags | MSG_TRUNC)
    if n < 0:
        note_error(c, errno)
        return False
    now[0] = clock_now_ns()
    if n == wanted and udp_header_read(&h, c.buffer, n, udp_tag(&c.session.control, <uint16_t>(socket + 1))):
        real = clock_real_ns() if stamp else 0
        if stamp and real >= stamp:
            histogram_record(&c.wakeup, real - stamp)
        take_response(c, h.sequence, now[0])
    return True


cdef uint64_t receive_ready(caller *c, uint64_t now, uint64_t until) noexcept nogil:
    """Take a datagram of each socket that has one by then. Returns the time."""
    cdef bint some = False
    cdef int i
    for i in range(watch_wait(&c.watch, now, until)):
        some |= receive(c, watch_index(&c.watch, i), MSG_DONTWAIT, &now)
    return now if some else clock_now_ns()


cdef uint64_t wait_for_responses(caller *c, uint64_t now) noexcept nogil:
    """Wait as asked for, but not past what is due, and take what has come. Returns the time."""
    cdef uint64_t until = now + SLICE_NS
    cdef bint spins = c.session.terms.wait == WAIT_SPIN
    if c.asleep or (spins and c.session.terms.sockets == 1):
        return now if receive(c, 0, MSG_DONTWAIT if spins else 0, &now) else clock_now_ns()
    if c.flight.waiting and c.flight.patience_ns < SLICE_NS:
        until = now + c.flight.patience_ns
    if now < c.worker.deadline_ns and not c.spent and 0 < c.due_ns < until:
        until = c.due_ns
    return receive_ready(c, now, 0 if spins else until)


cdef void call_loop(caller *c) noexcept nogil:
    cdef uint64_t now = clock_now_ns()
    cdef flight_slot *lost
    cdef uint32_t i
    for i in range(c.idle_count):
        c.idle[i].since_ns = now
    pace_start(&c.pace, c.worker.start_ns)
    c.due_ns = pace_next(&c.pace) if c.pace.period_ns > 0 else 0
    while worker_running(&c.worker):
        send_due(c, now)
        if not c.flight.waiting and (now >= c.worker.deadline_ns or c.spent):
            return
        now = wait_for_responses(c, now)
        lost = flight_expire(&c.flight, now)
        while lost is not NULL:
            counter_add(&c.timeouts, 1)
            set_free(c, lost.socket, now)
            lost = flight_expire(&c.flight, now)


cdef void udp_rr_loop(worker *w) noexcept nogil:
    cdef caller *c = <caller *>w
    cdef uint32_t _i
    if w.index:
        await_results(w, c.session)
        return
    call_loop(c)
    for _i in range(c.session.terms.sockets if worker_running(w) else 0):
        initiator_sent_last(c.session)


cdef class UdpRr(Initiator):
    """`depth` requests under way on each of `connections` (`rate_per_s` 0), or so many of them in a second over all.

    Without `duration_ms` it goes on until stop(). A request without a response within `timeout_ms` is a timeout; on the
    path it delays nothing. Raises UsageError for what no responder would keep.
    """

    cdef double _rate_per_s
    cdef bint _poisson
    cdef uint32_t _depth
    cdef uint64_t _patience_ns
    cdef bint _stamps
    cdef uint64_t _rows

    def __init__(self, session not None, *, duration_ms=None, unsigned int request_bytes=16,
                 unsigned int response_bytes=16, str wait not None="block", unsigned int connections=1,
                 unsigned int depth=1, double rate_per_s=0, bint poisson=False, unsigned int timeout_ms=200,
                 bint kernel_stamps=False, bint raw_samples=False, str placement not None="inherit",
                 giving_up=lambda: False):
        super().__init__(placement=placement, duration_ms=duration_ms)
        for what, value, least, most in (
            ("bytes in a request", request_bytes, SESSION_MIN_DATAGRAM, SESSION_MAX_DATAGRAM),
            ("bytes in a response", response_bytes, SESSION_MIN_DATAGRAM, SESSION_MAX_DATAGRAM),
            ("connections", connections, 1, 1 if wait == "block" else SESSION_MAX_SOCKETS),
            ("requests under way", depth, 1, MAX_DEPTH),
            ("requests a second", rate_per_s, 0, 1_000_000),
            ("ms until a timeout", timeout_ms, 1, MAX_TIMEOUT_MS),
        ):
            if not least <= value <= most:
                raise UsageError(f"{value} {what}: there may be {least} to {most} with wait {wait}")
        if connections * depth >= FLIGHT_SLOTS:
            raise UsageError(f"{connections} connections with {depth} requests each are too many: "
                             f"{FLIGHT_SLOTS - 1} may be under way in all")
        terms = round_trip_terms(wait, connections, {
            "duration_ms": duration_ms or 0,
            "request_bytes": request_bytes,
            "response_bytes": response_bytes,
        })
        self._invite(KIND_UDP_RR, terms, session, giving_up)
        self._rate_per_s = rate_per_s
        self._poisson = poisson
        self._depth = depth
        self._patience_ns = timeout_ms * 1_000_000
        self._rows = RING_ROWS if raw_samples else 0
        self._stamps = kernel_stamps
        self._facts.update({"engine": "udp_rr", "wait": wait, "connections": str(connections), "depth": str(depth)})
        self._staff(2, sizeof(caller), udp_rr_loop, NULL)

    cdef int _outfit(self, worker *w) except -1:
        cdef caller *c = <caller *>w
        c.session = &self._session
        c.watch.epoll = -1
        if w.index:
            return 0
        self._equip(c)
        pace_init(&c.pace, self._rate_per_s, self._poisson, int.from_bytes(os.urandom(8)), 0)
        self._count("transactions", &c.transactions)
        self._count("requests", &c.requests)
        self._count("timeouts", &c.timeouts)
        self._count("late_responses", &c.late_responses)
        self._count("duplicates", &c.duplicates)
        self._count("send_errors", &c.send_errors)
        self._count("refused", &c.refused)
        self._count("unreachable", &c.unreachable)
        self._observe("latency_ns", &c.latency)
        if self._rate_per_s > 0:
            self._count("late_operations", &c.late_operations)
            self._observe("service_ns", &c.service)
        if self._stamps:
            self._observe("wakeup_ns", &c.wakeup)
        return self._sample(&c.ring, self._rows)

    cdef int _equip(self, caller *c) except -1:
        """Make room for everything that is under way, and touch it."""
        cdef session_terms *t = &self._session.terms
        cdef size_t size = max(t.request_bytes, t.response_bytes)
        c.idle_count = t.sockets * self._depth
        c.flight.patience_ns = self._patience_ns
        c.flight.slots = <flight_slot *>malloc(FLIGHT_SLOTS * sizeof(flight_slot))
        c.buffer = <uint8_t *>malloc(size)
        c.idle = <slot *>malloc(c.idle_count * sizeof(slot))
        if c.flight.slots is NULL or c.buffer is NULL or c.idle is NULL:
            raise EngineError("malloc", ENOMEM, "make room for requests")
        memset(c.flight.slots, 0, FLIGHT_SLOTS * sizeof(flight_slot))
        memset(c.buffer, 0, size)
        for i in range(c.idle_count):
            c.idle[i].socket = i % t.sockets
        return 0

    cdef int _open(self) except -1:
        cdef caller *c = <caller *>self._worker(0)
        cdef int error
        cdef uint32_t i
        Initiator._open(self)
        c.stamping = self._stamps
        c.asleep = (self._session.terms.wait == WAIT_BLOCK and self._rate_per_s == 0
                    and self._patience_ns >= SLICE_NS)
        error = watch_open(&c.watch)
        for i in range(self._session.terms.sockets):
            if not error:
                error = watch_input(&c.watch, self._session.fds[i + 1], i)
            if not error and c.stamping:
                error = kernel_stamp_ask(self._session.fds[i + 1])
        if error < 0:
            raise EngineError("epoll_ctl", -error, f"watch {self._session.terms.sockets} connections")
        return 0

    cdef void _retire(self, worker *w) noexcept nogil:
        cdef caller *c = <caller *>w
        free(c.buffer)
        free(c.idle)
        free(c.flight.slots)
        watch_close(&c.watch)
