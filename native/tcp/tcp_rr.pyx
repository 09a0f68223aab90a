"""Requests and responses over 1 to 1024 TCP connections: the full round trip, never half of it.

    closed loop  |-------- latency --------|-------- latency --------| …        one clock read (CLOCK_MONOTONIC) each
                 send request … last byte of the response, the next request starts here

    open loop    intended   sent                     response
                    |         |------ service_ns ------|
                    |------------- latency ------------|      a late start is charged to the latency

    depth 2      |-- request 1 --|-- request 3 --|      answers come in order; what comes together ends together, and
                   |-- request 2 --|-- request 4 --|    starts anew from there, the sends before its own included: so
                                                        mean latency x rate = connections x depth (Little's law)

    kernel stamps      last byte at the kernel       recv returns
                                 |----- wakeup_ns -----|     both ends from CLOCK_REALTIME, read beside each other, so
                                                             no wall clock is ever compared with the monotonic one;
                                                             it costs 0.2 us (tests/bench/rr_connections.py)

A slot is the right to have one more request under way: there are `depth` for each connection. A closed loop starts
where a slot is free; an open loop starts when it is time, and late where no slot was free, on the connection whose slot
has been free for longest. wait=block sleeps in recv of one connection, wait=epoll in epoll_wait of all, wait=spin asks
without sleeping; both ends wait alike. A row of the ring: t_ns intended start, value_ns latency, kind 0, aux: which
connection. TCP_INFO is read by this thread, every 100 ms where there are few connections, 16 of them each 50 ms.
"""

from libc.errno cimport EAGAIN, EINTR, EPROTO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.clock cimport clock_now_ns, clock_real_ns
from cvmprobe.native.counters cimport COUNTER_UNKNOWN, counter_add, counter_read
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.initiator cimport (
    INITIATOR_DRAIN_NS, Initiator, await_results, initiator, initiator_reserve, round_trip_terms,
)
from cvmprobe.native.kernel_stamp cimport kernel_stamp_ask, kernel_stamp_recv
from cvmprobe.native.pace cimport PACE_LATE_NS, pace, pace_init, pace_next, pace_sleep, pace_start
from cvmprobe.native.ring cimport ring, ring_push
from cvmprobe.native.session cimport KIND_TCP_RR, SESSION_MAX_MESSAGE, SESSION_MAX_SOCKETS, WAIT_EPOLL, WAIT_SPIN
from cvmprobe.native.sys_socket cimport MSG_DONTWAIT, SHUT_WR, recv, shutdown
from cvmprobe.native.tcp_path cimport TCP_PATH_NAME_BYTES, tcp_congestion_control, tcp_path_read, tcp_path_watch
from cvmprobe.native.tcp_rr_line cimport (
    rr_line, rr_line_await_room, rr_line_begin, rr_line_end, rr_line_look, rr_line_send, rr_line_waits_since,
    rr_lines, rr_lines_free, rr_lines_make, rr_slots_give, rr_slots_take, rr_start,
)
from cvmprobe.native.watch cimport (
    watch, watch_add, watch_close, watch_ends, watch_index, watch_open, watch_wait,
)
from cvmprobe.native.worker cimport worker, worker_fail, worker_running


cdef enum:
    RING_ROWS = 1 << 18
    MAX_DEPTH = 256
    BUFFER_BYTES = 16384  # at the least: small responses may come in together
    SPIN_NS = 50000  # of the end of a pause, when waiting by spinning
    LOOK_NS = 50000000  # between two looks at what is not in the way of any transaction
    LOOK_PATHS = 16  # connections whose TCP_INFO is read at each look
    SPINS = 256  # tries of a spinning reader between two looks at the clock


cdef struct caller:
    worker worker
    initiator *session
    uint8_t *buffer
    size_t buffer_bytes
    rr_lines all
    uint32_t next_path
    bint closing  # nothing is started any more
    bint watching
    bint stamping
    bint spinning
    bint paced
    pace pace
    uint64_t next_ns  # intended start of the next request, where paced
    uint64_t look_ns
    uint64_t transactions
    uint64_t late_operations
    uint64_t timeouts
    watch watch
    ring ring
    histogram latency
    histogram service
    histogram wakeup


cdef void fail(caller *c, const char *call, int error) noexcept nogil:
    if worker_running(&c.worker):
        worker_fail(&c.worker, call, error)


# -- starting --

cdef void push_out(caller *c, rr_line *line) noexcept nogil:
    cdef int error = rr_line_send(line, c.buffer, c.session.terms.request_bytes)
    if error:
        fail(c, b"send", -error)


cdef bint may_start(caller *c, uint64_t now) noexcept nogil:
    """Whether one more request is due, and allowed."""
    cdef uint64_t whole = c.session.terms.request_bytes + c.session.terms.response_bytes
    if c.closing or not c.all.slots.free or (c.paced and c.next_ns > now):
        return False
    c.closing = now >= c.worker.deadline_ns or initiator_reserve(c.session, whole) < whole
    return not c.closing


cdef uint64_t start_due(caller *c, uint64_t now) noexcept nogil:
    """Start all requests that are due; a closed loop starts one when its slot becomes free. Returns the time."""
    cdef rr_line *line
    while may_start(c, now):
        line = &c.all.line[rr_slots_take(&c.all.slots)]
        rr_line_begin(line, c.next_ns if c.paced else now, now, c.session.terms.request_bytes)
        push_out(c, line)
        if c.paced:
            c.next_ns = pace_next(&c.pace)
            now = clock_now_ns()
    return now


# -- ending --

cdef void record(caller *c, rr_line *line, uint64_t ended) noexcept nogil:
    """The oldest request of a connection is answered."""
    cdef rr_start s = rr_line_end(line, ended, &c.timeouts)
    rr_slots_give(&c.all.slots, line.index)
    histogram_record(&c.latency, ended - s.intended_ns)
    ring_push(&c.ring, s.intended_ns, ended - s.intended_ns, 0, 0, <uint16_t>line.index)
    counter_add(&c.transactions, 1)
    if c.paced:
        histogram_record(&c.service, ended - s.began_ns)
        counter_add(&c.late_operations, s.began_ns - s.intended_ns > PACE_LATE_NS)


cdef ssize_t receive(caller *c, rr_line *line, int flags, uint64_t *ended) noexcept nogil:
    """Receive once, and record what is answered by it, at *ended. Returns what recv does."""
    cdef uint64_t stamp = 0
    cdef uint64_t real
    cdef ssize_t n
    if c.stamping:
        n = kernel_stamp_recv(line.fd, c.buffer, c.buffer_bytes, flags, &stamp)
    else:
        n = recv(line.fd, c.buffer, c.buffer_bytes, flags)
    if n <= 0:
        if n == 0 or (errno != EAGAIN and errno != EINTR):
            fail(c, b"recv", errno if n else EPROTO)
        return n
    ended[0] = clock_now_ns()
    real = clock_real_ns() if stamp else 0
    line.received += <uint64_t>n
    if stamp and real >= stamp and line.received >= c.session.terms.response_bytes:
        histogram_record(&c.wakeup, real - stamp)
    while line.received >= c.session.terms.response_bytes and line.in_flight:
        line.received -= c.session.terms.response_bytes
        record(c, line, ended[0])
    if line.received and not line.in_flight:
        fail(c, b"recv more than was asked for", EPROTO)
    return n


cdef uint64_t await_one(caller *c, rr_line *line) noexcept nogil:
    """Wait for what comes on the one connection. Returns the time."""
    cdef uint64_t now = 0
    cdef int flags = MSG_DONTWAIT if c.spinning or line.to_send else 0
    cdef int tries = SPINS if c.spinning and not (c.paced and c.all.slots.free) else 1
    if line.to_send:
        rr_line_await_room(line)
        push_out(c, line)
    while tries and not now and not c.worker.error_call:
        receive(c, line, flags, &now)
        tries -= 1
    return now if now else clock_now_ns()


cdef uint64_t take_all(caller *c, rr_line *line, bint ends, uint64_t now) noexcept nogil:
    """Take what a connection has, as its event told, and start anew. Returns the time."""
    cdef ssize_t n = <ssize_t>c.buffer_bytes
    push_out(c, line)
    while (n == <ssize_t>c.buffer_bytes or (n > 0 and ends)) and worker_running(&c.worker) and not c.worker.error_call:
        n = receive(c, line, MSG_DONTWAIT, &now)
        if n > 0:
            now = start_due(c, now)
    return now


cdef uint64_t await_any(caller *c, uint64_t now) noexcept nogil:
    """Wait for what comes on any connection, or for the next start. Returns the time."""
    cdef uint64_t until = now + LOOK_NS
    cdef int i, events
    if not c.closing:
        until = min(until, c.worker.deadline_ns)
        if c.paced and c.all.slots.free:
            until = min(until, c.next_ns)
    events = watch_wait(&c.watch, now, 0 if c.spinning else until)
    now = clock_now_ns()
    for i in range(events):
        now = take_all(c, &c.all.line[watch_index(&c.watch, i)], watch_ends(&c.watch, i), now)
    return now


# -- the loop --

cdef void look(caller *c, uint64_t now) noexcept nogil:
    """Count what has not been answered for too long, and read TCP_INFO where it is time."""
    cdef rr_line *line
    cdef uint32_t i
    c.look_ns = now + LOOK_NS
    for i in range(c.all.count):
        rr_line_look(&c.all.line[i], now, &c.timeouts)
    for _ in range(min(c.all.count, <uint32_t>LOOK_PATHS)):
        line = &c.all.line[c.next_path]
        line.path.silence.awaiting_since_ns = rr_line_waits_since(line)
        tcp_path_watch(&line.path, line.fd, now)
        c.next_path = c.next_path + 1 if c.next_path + 1 < c.all.count else 0


cdef bint calling(caller *c, uint64_t now) noexcept nogil:
    """Whether there is more to start, or to wait for: what is under way at the deadline is, for the drain."""
    if c.worker.error_call or not worker_running(&c.worker):
        return False
    c.closing = c.closing or now >= c.worker.deadline_ns
    if not c.closing:
        return True
    if c.all.slots.free == c.all.slots.count:
        return False
    return now < c.worker.deadline_ns or now - c.worker.deadline_ns < INITIATOR_DRAIN_NS


cdef void call_loop(caller *c) noexcept nogil:
    cdef uint64_t now = clock_now_ns()
    pace_start(&c.pace, c.worker.start_ns)
    if c.paced:
        c.next_ns = pace_next(&c.pace)
    while calling(c, now):
        now = start_due(c, now)
        if now >= c.look_ns:
            look(c, now)
        if c.watching:
            now = await_any(c, now)
        elif c.all.line.in_flight:
            now = await_one(c, c.all.line)
        elif not c.closing:
            pace_sleep(&c.pace, now, min(c.next_ns, c.worker.deadline_ns))
            now = clock_now_ns()


cdef void tcp_rr_loop(worker *w) noexcept nogil:
    cdef caller *c = <caller *>w
    cdef uint32_t i
    if w.index:
        await_results(w, c.session)
        return
    call_loop(c)
    for i in range(c.all.count):
        tcp_path_read(&c.all.line[i].path, c.all.line[i].fd, clock_now_ns())
        if worker_running(w) and not w.error_call:
            shutdown(c.all.line[i].fd, SHUT_WR)


cdef class TcpRr(Initiator):
    """One transaction after the other in each slot (`rate_per_s` 0), or `rate_per_s` of them in a second, late or not.

    Without `duration_ms` it goes on until stop(). Raises UsageError for what no responder would keep.
    """

    cdef double _rate_per_s
    cdef bint _poisson
    cdef uint32_t _depth
    cdef bint _stamps
    cdef uint64_t _rows

    def __init__(self, session not None, *, duration_ms=None, unsigned int request_bytes=1,
                 unsigned int response_bytes=1, str wait not None="block", unsigned int connections=1,
                 unsigned int depth=1, double rate_per_s=0, bint poisson=False, bint kernel_stamps=False,
                 bint raw_samples=False, str placement not None="inherit", giving_up=lambda: False):
        super().__init__(placement=placement, duration_ms=duration_ms)
        for name, size in (("request", request_bytes), ("response", response_bytes)):
            if not 0 < size <= SESSION_MAX_MESSAGE:
                raise UsageError(f"a {name} of {size} bytes: there may be 1 to {SESSION_MAX_MESSAGE}")
        if not 0 <= rate_per_s <= 1e6:
            raise UsageError(f"{rate_per_s} transactions a second: there may be 0 (one after the other) to 1000000")
        if not 0 < connections <= SESSION_MAX_SOCKETS:
            raise UsageError(f"{connections} connections: there may be 1 to {SESSION_MAX_SOCKETS}")
        if not 0 < depth <= MAX_DEPTH:
            raise UsageError(f"depth {depth}: 1 to {MAX_DEPTH} requests may be under way on a connection")
        if wait == "block" and (connections > 1 or (depth > 1 and rate_per_s)):
            raise UsageError("wait=block sleeps in recv of one connection, and starts nothing meanwhile: for more "
                             "connections, or depth at a rate, ask for wait=epoll or wait=spin")
        terms = round_trip_terms(wait, connections, {
            "duration_ms": duration_ms or 0,
            "request_bytes": request_bytes,
            "response_bytes": response_bytes,
        })
        self._invite(KIND_TCP_RR, terms, session, giving_up)
        self._rate_per_s = rate_per_s
        self._poisson = poisson
        self._depth = depth
        self._stamps = kernel_stamps
        self._rows = RING_ROWS if raw_samples else 0
        self._facts.update({"engine": "tcp_rr", "wait": wait, "connections": str(connections), "depth": str(depth)})
        self._staff(2, sizeof(caller), tcp_rr_loop, NULL)

    cdef int _outfit(self, worker *w) except -1:
        cdef caller *c = <caller *>w
        c.session = &self._session
        c.watch.epoll = -1
        if w.index:
            return 0
        c.buffer_bytes = max(<uint32_t>BUFFER_BYTES, self._session.terms.request_bytes,
                             self._session.terms.response_bytes)
        c.buffer = <uint8_t *>calloc(1, c.buffer_bytes)
        if c.buffer is NULL or rr_lines_make(&c.all, self._session.terms.sockets, self._depth):
            raise MemoryError(f"no room for {self._session.terms.sockets} x {self._depth} requests")
        c.spinning = self._session.terms.wait == WAIT_SPIN
        c.watching = self._session.terms.sockets > 1 or self._session.terms.wait == WAIT_EPOLL
        c.stamping = self._stamps
        c.paced = self._rate_per_s > 0
        # starts are as random as the session's id, and the same again for the same id
        pace_init(&c.pace, self._rate_per_s, self._poisson, (<uint64_t *>self._session.control.session_id)[0],
                  SPIN_NS if c.spinning else 0)
        self._register(c)
        return self._sample(&c.ring, self._rows)

    cdef int _register(self, caller *c) except -1:
        cdef uint32_t i
        self._count("transactions", &c.transactions)
        self._count("timeouts", &c.timeouts)
        self._observe("latency_ns", &c.latency)
        if c.paced:
            self._count("late_operations", &c.late_operations)
            self._observe("service_ns", &c.service)
        if c.stamping:
            self._observe("wakeup_ns", &c.wakeup)
        for i in range(c.all.count):
            self._count("retransmitted_segments", &c.all.line[i].path.retransmitted_segments)
            self._count("no_ack_ns", &c.all.line[i].path.silence.no_ack_ns)
            self._count("unanswered_ns", &c.all.line[i].path.silence.unanswered_ns)
        return 0

    cdef int _open(self) except -1:
        cdef char[TCP_PATH_NAME_BYTES] name
        cdef caller *c
        cdef int error = 0
        cdef uint32_t i
        Initiator._open(self)
        c = <caller *>self._worker(0)
        if c.watching:
            error = watch_open(&c.watch)
        for i in range(c.all.count):
            c.all.line[i].fd = self._session.fds[i + 1]
            if c.watching and not error:
                error = watch_add(&c.watch, c.all.line[i].fd, i)
            if c.stamping and not error:
                error = kernel_stamp_ask(c.all.line[i].fd)
        if error:
            raise EngineError("epoll_ctl or SO_TIMESTAMPNS", -error, f"watch {c.all.count} connections")
        if tcp_congestion_control(self._session.fds[1], name) == 0:
            self._facts["congestion_control"] = name.decode()
        return 0

    cdef void _retire(self, worker *w) noexcept nogil:
        cdef caller *c = <caller *>w
        watch_close(&c.watch)
        rr_lines_free(&c.all)
        free(c.buffer)

    @property
    def facts(self):
        """What was found and used, and the kernel's round-trip times: mean of the smoothed ones, and the least."""
        cdef caller *c
        known = dict(self._facts)
        if self._block is NULL or not self._outfitted:
            return known
        c = <caller *>self._worker(0)
        rtts = [counter_read(&c.all.line[i].path.rtt_ns) for i in range(c.all.count)]
        least = [counter_read(&c.all.line[i].path.min_rtt_ns) for i in range(c.all.count)]
        if COUNTER_UNKNOWN not in rtts:
            known["rtt_ns"] = str(sum(rtts) // len(rtts))
        if COUNTER_UNKNOWN not in least:
            known["min_rtt_ns"] = str(min(least))
        return known
