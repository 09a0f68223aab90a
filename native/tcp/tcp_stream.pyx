"""Bulk transfer over 1 to 64 TCP connections, one thread each at both ends, blocking.

    sending     start                                       deadline   FIN             results
                  |--send--|--send--| … |--send--|--send--|----|        |------ drain -----|
                  each send_call_ns ends at one clock read (CLOCK_MONOTONIC), where the next begins
    receiving   start: one byte         first payload byte                  last byte  FIN
                  |                       |--recv--|--recv--| …           --recv--|      one clock read after each recv
                                          |-- bin 0 --|-- bin 1 --| … |-- after the deadline --|

The responder does the other half (tcp_stream_service.pyx). Both directions at once are twice as many connections, with
threads and a byte limit of their own: neither waits for the other. A message that the kernel took in pieces is
finished before the next one starts. TCP_INFO is read every 100 ms by the thread that owns a sending socket, and until
all of it is acknowledged; a peer that takes nothing wakes it every 50 ms.
"""

from libc.errno cimport EAGAIN, EINTR, ENOMEM, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.clock cimport clock_now_ns, clock_sleep_until
from cvmprobe.native.counters cimport COUNTER_UNKNOWN, counter_add, counter_read
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.initiator cimport (
    INITIATOR_DRAIN_NS, Initiator, await_results, initiator, initiator_reserve, initiator_take_in, stream_terms,
)
from cvmprobe.native.intervals cimport intervals, intervals_at
from cvmprobe.native.session cimport (
    KIND_TCP_STREAM, RECEIVE_COPY, RECEIVE_DISCARD, SESSION_MAX_MESSAGE, session_bins, session_responder_sends,
)
from cvmprobe.native.sys_socket cimport SOL_SOCKET, SO_RCVBUF, SO_SNDBUF, getsockopt
from cvmprobe.native.tcp_path cimport (
    TCP_PATH_NAME_BYTES, tcp_congestion_control, tcp_path, tcp_path_init, tcp_path_read, tcp_path_undrained,
    tcp_path_watch,
)
from cvmprobe.native.worker cimport worker, worker_fail, worker_running


cdef extern from "<errno.h>" nogil:
    enum:
        EDQUOT


cdef enum:
    RECEIVE_BYTES = 128 * 1024  # asked of one recv: more would not stay in the cache
    DRAIN_LOOK_NS = 5000000  # between two looks at whether everything is acknowledged


cdef struct stream:
    worker worker
    initiator *session
    const uint8_t *message  # to send
    uint8_t *buffer  # to receive into
    uint64_t sent_bytes
    uint64_t send_calls
    tcp_path path
    uint64_t received_bytes
    uint64_t receive_calls
    uint64_t *first_ns  # of all that receive
    uint64_t *bins
    intervals intervals
    histogram send_call


cdef uint64_t send_message(stream *s, int fd, uint64_t size, uint64_t began) noexcept nogil:
    """Send one message, all of it unless stopped or past the deadline. Returns when it ended, 0 after a failure."""
    cdef uint64_t left = size
    cdef uint64_t now = began
    cdef ssize_t n
    while left:
        n = send(fd, s.message + (size - left), left, MSG_NOSIGNAL)
        now = clock_now_ns()
        histogram_record(&s.send_call, now - began)
        counter_add(&s.send_calls, 1)
        began = now
        if n > 0:
            left -= <uint64_t>n
            counter_add(&s.sent_bytes, <uint64_t>n)
        elif errno != EAGAIN and errno != EINTR:
            if worker_running(&s.worker):
                worker_fail(&s.worker, b"send", errno)
            return 0
        tcp_path_watch(&s.path, fd, now)
        if left and (now >= s.worker.deadline_ns or not worker_running(&s.worker)):
            return now
    return now


cdef void send_loop(stream *s, int fd) noexcept nogil:
    cdef uint64_t size
    cdef uint64_t now = clock_now_ns()
    tcp_path_read(&s.path, fd, now)
    while now < s.worker.deadline_ns and worker_running(&s.worker):
        size = initiator_reserve(s.session, s.session.terms.request_bytes)
        if not size:
            break
        now = send_message(s, fd, size, now)
        if not now:
            return
    if worker_running(&s.worker):
        shutdown(fd, SHUT_WR)
    await_drain(s, fd)


cdef void await_drain(stream *s, int fd) noexcept nogil:
    """Go on reading TCP_INFO until everything is acknowledged, for no longer than the results are waited for."""
    cdef uint64_t now = clock_now_ns()
    while tcp_path_undrained(tcp_path_read(&s.path, fd, now)) and worker_running(&s.worker):
        if now > s.worker.deadline_ns and now - s.worker.deadline_ns > INITIATOR_DRAIN_NS:
            return
        clock_sleep_until(now + DRAIN_LOOK_NS)
        now = clock_now_ns()


cdef void receive_loop(stream *s, int fd) noexcept nogil:
    """Let the responder begin, and receive until its FIN."""
    cdef int flags = MSG_TRUNC if s.session.terms.receive == RECEIVE_DISCARD else 0
    cdef uint64_t now = s.worker.start_ns
    cdef ssize_t n = send(fd, s.buffer, 1, MSG_NOSIGNAL)
    while worker_running(&s.worker) and (now < s.worker.deadline_ns or now - s.worker.deadline_ns < INITIATOR_DRAIN_NS):
        n = recv(fd, s.buffer, RECEIVE_BYTES, flags)
        now = clock_now_ns()
        if n > 0:
            s.bins[intervals_at(&s.intervals, s.first_ns, now)] += <uint64_t>n
            counter_add(&s.received_bytes, <uint64_t>n)
            counter_add(&s.receive_calls, 1)
            if initiator_take_in(s.session, <uint64_t>n):
                worker_fail(&s.worker, b"recv no more than was allowed", EDQUOT)
                return
        elif n == 0:
            shutdown(fd, SHUT_WR)
            return
        elif errno != EAGAIN and errno != EINTR:
            if worker_running(&s.worker):
                worker_fail(&s.worker, b"recv", errno)
            return


cdef void stream_loop(worker *w) noexcept nogil:
    cdef stream *s = <stream *>w
    if w.index == s.session.terms.sockets:
        await_results(w, s.session)
    elif session_responder_sends(&s.session.terms, w.index + 1):
        receive_loop(s, s.session.fds[w.index + 1])
    else:
        send_loop(s, s.session.fds[w.index + 1])


# What is told of the sending connections together; of a rate, of how many of them the application held it down.
PATH_FACTS = {
    "rtt_ns": lambda known: sum(known) // len(known),
    "min_rtt_ns": min,
    "cwnd_segments": sum,
    "delivery_bytes_per_s": sum,
    "delivery_app_limited": sum,
    "path_mtu_bytes": min,
    "mss_bytes": min,
    "reordering_segments": max,
}


cdef tuple path_values(tcp_path *p):
    """In the order of PATH_FACTS."""
    return (counter_read(&p.rtt_ns), counter_read(&p.min_rtt_ns), counter_read(&p.cwnd_segments),
            counter_read(&p.delivery_bytes_per_s), counter_read(&p.delivery_app_limited),
            counter_read(&p.path_mtu_bytes), counter_read(&p.mss_bytes), counter_read(&p.reordering_segments))


cdef class TcpStream(Initiator):
    """Sends messages of `message_bytes` over `streams` connections each way for `duration_ms`.

    No more than `byte_limit` each way (0: no such limit), and what the session allows in all. Options of 0 or "" are
    left to the system. Raises UsageError for what no responder would keep.
    """

    cdef uint8_t *_message
    cdef uint64_t _first_ns
    cdef unsigned int _streams

    def __init__(self, session not None, *, uint32_t duration_ms, uint32_t interval_ms, unsigned int streams=1,
                 str direction not None="forward", unsigned int message_bytes=128 * 1024, bint discard=False,
                 uint32_t sndbuf_bytes=0, uint32_t rcvbuf_bytes=0, uint32_t mss=0, unsigned int dscp=0,
                 uint64_t rate_bytes_per_s=0, uint64_t byte_limit=0, str congestion not None="",
                 str placement not None="inherit", giving_up=lambda: False):
        super().__init__(placement=placement, duration_ms=duration_ms)
        if not 0 < message_bytes <= SESSION_MAX_MESSAGE:
            raise UsageError(f"messages of {message_bytes} bytes: there may be 1 to {SESSION_MAX_MESSAGE}")
        terms = stream_terms(session, direction, streams, {
            "receive": RECEIVE_DISCARD if discard else RECEIVE_COPY,
            "dscp": dscp,
            "interval_ms": interval_ms,
            "duration_ms": duration_ms,
            "request_bytes": message_bytes,
            "sndbuf_bytes": sndbuf_bytes,
            "rcvbuf_bytes": rcvbuf_bytes,
            "mss": mss,
            "rate_bytes_per_s": rate_bytes_per_s,
            "byte_limit": byte_limit,
            "congestion": congestion.encode(),
        })
        self._streams = streams
        self._invite(KIND_TCP_STREAM, terms, session, giving_up)
        self._facts["engine"] = "tcp_stream"
        self._facts["receive"] = "discard" if discard else "copy"
        self._staff(self._session.terms.sockets + 1, sizeof(stream), stream_loop, NULL)

    cdef int _outfit(self, worker *w) except -1:
        cdef stream *s = <stream *>w
        s.session = &self._session
        tcp_path_init(&s.path)
        if w.index == self._session.terms.sockets:
            return 0
        if session_responder_sends(&self._session.terms, w.index + 1):
            return self._outfit_receiver(s)
        s.message = self._random_message()
        self._count_stream(w, "sent_bytes", &s.sent_bytes)
        self._count_stream(w, "retransmitted_segments", &s.path.retransmitted_segments)
        self._count("send_calls", &s.send_calls)
        self._count("no_ack_ns", &s.path.silence.no_ack_ns)
        self._count("unanswered_ns", &s.path.silence.unanswered_ns)
        self._count("reordering_events", &s.path.reordering_events)
        self._count("busy_ns", &s.path.busy_ns)
        self._count("rwnd_limited_ns", &s.path.rwnd_limited_ns)
        self._count("sndbuf_limited_ns", &s.path.sndbuf_limited_ns)
        return self._observe("send_call_ns", &s.send_call)

    cdef int _outfit_receiver(self, stream *s) except -1:
        s.first_ns = &self._first_ns
        s.intervals.terms = &self._session.terms
        s.intervals.count = session_bins(KIND_TCP_STREAM, &self._session.terms)
        s.bins = <uint64_t *>calloc(s.intervals.count, sizeof(uint64_t))
        s.buffer = <uint8_t *>malloc(RECEIVE_BYTES)
        if s.bins is NULL or s.buffer is NULL:
            raise EngineError("malloc", ENOMEM, "make room to receive")
        memset(s.buffer, 0, RECEIVE_BYTES)
        self._count_stream(&s.worker, "reverse_receiver_bytes", &s.received_bytes)
        return self._count("reverse_receive_calls", &s.receive_calls)

    cdef int _count_stream(self, worker *w, str name, uint64_t *counter) except -1:
        """Count for all streams together and, where there are several, for this one: `name.1` is the first."""
        if self._streams > 1:
            self._count(f"{name}.{w.index % self._streams + 1}", counter)
        return self._count(name, counter)

    cdef void _retire(self, worker *w) noexcept nogil:
        free((<stream *>w).bins)
        free((<stream *>w).buffer)
        free(self._message)  # with the first worker, for all
        self._message = NULL

    cdef int _open(self) except -1:
        cdef char[TCP_PATH_NAME_BYTES] name
        Initiator._open(self)
        if tcp_congestion_control(self._session.fds[1], name) == 0:
            self._facts["congestion_control"] = name.decode()
        if self._session.terms.sndbuf_bytes:
            self._facts["sndbuf_bytes"] = str(self._buffer_bytes(SO_SNDBUF))
        if self._session.terms.rcvbuf_bytes:
            self._facts["rcvbuf_bytes"] = str(self._buffer_bytes(SO_RCVBUF))
        return 0

    cdef int _buffer_bytes(self, int name) except -1:
        """As the kernel counts, its own overhead included."""
        cdef int value = 0
        cdef unsigned int size = sizeof(value)
        if getsockopt(self._session.fds[1], SOL_SOCKET, name, &value, &size):
            raise EngineError("getsockopt", errno, "read a socket's buffer size back")
        return value

    @property
    def reverse_bins(self):
        """What was received here in each interval since the first payload byte, and after the deadline."""
        if self._block is NULL:
            return []
        cdef stream *s
        bins = [0] * session_bins(KIND_TCP_STREAM, &self._session.terms)
        for i in range(self._session.terms.sockets):
            s = <stream *>self._worker(i)
            for at in range(s.intervals.count):
                bins[at] += s.bins[at]
        return bins

    @property
    def facts(self):
        """What was found and used, and what the kernel last said of the connections that send."""
        known = dict(self._facts)
        known.update(self._path_facts())
        return known

    cdef dict _path_facts(self):
        """What one stream does not know is absent."""
        if self._block is NULL:
            return {}
        rows = [path_values(&(<stream *>self._worker(i)).path) for i in range(self._session.terms.sockets)
                if not session_responder_sends(&self._session.terms, i + 1)]
        columns = dict(zip(PATH_FACTS, zip(*rows, strict=True), strict=False))
        return {name: str(PATH_FACTS[name](values)) for name, values in columns.items()
                if COUNTER_UNKNOWN not in values}

    cdef const uint8_t *_random_message(self) except NULL:
        """One message for all streams, of random bytes so that nothing on the way can compress it."""
        cdef size_t size = self._session.terms.request_bytes
        cdef size_t filled = 0
        cdef ssize_t n
        if self._message is not NULL:
            return self._message
        self._message = <uint8_t *>malloc(size)
        if self._message is NULL:
            raise EngineError("malloc", ENOMEM, f"make room for a message of {size} bytes")
        while filled < size:
            n = getrandom(self._message + filled, size - filled, 0)
            if n < 0 and errno != EINTR:
                raise EngineError("getrandom", errno, "fill the message")
            filled += max(n, 0)
        return self._message
