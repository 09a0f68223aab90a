"""Bulk transfer over 1 to 64 TCP connections, one thread each, blocking.

    initiator   start                                       deadline   FIN             results
                  |--send--|--send--| … |--send--|--send--|----|        |------ drain -----|
                  each send_call_ns ends at one clock read (CLOCK_MONOTONIC), where the next begins
    responder        first payload byte                              last byte  FIN
                     |--recv--|--recv--| …                      --recv--|        one clock read after each recv
                     |-- bin 0 --|-- bin 1 --| … |-- after the deadline --|      of the same length as the windows

A message that the kernel took in pieces is finished before the next one starts. TCP_INFO is read every 100 ms by the
thread that owns the socket; a peer that takes nothing wakes it every 50 ms.
"""

from libc.errno cimport EAGAIN, EINTR, ENOMEM, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.counters cimport COUNTER_UNKNOWN, counter_add, counter_read
from cvmprobe.native.histogram cimport histogram, histogram_record
from cvmprobe.native.initiator cimport Initiator, await_results, initiator, initiator_reserve
from cvmprobe.native.service cimport SERVICE_STREAM_BYTES, service, service_count, service_running
from cvmprobe.native.session cimport (
    KIND_TCP_STREAM, RECEIVE_COPY, RECEIVE_DISCARD, SESSION_MAX_MESSAGE, SESSION_MAX_STREAMS,
)
from cvmprobe.native.tcp_path cimport (
    TCP_PATH_NAME_BYTES, tcp_congestion_control, tcp_path, tcp_path_init, tcp_path_read, tcp_path_watch,
)
from cvmprobe.native.worker cimport worker, worker_fail, worker_running


cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
        MSG_TRUNC
        SHUT_WR
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    int shutdown(int fd, int how)

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *data, size_t size, unsigned int flags)


cdef struct stream:
    worker worker
    initiator *session
    const uint8_t *message
    uint64_t sent_bytes
    uint64_t send_calls
    tcp_path path
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


cdef void stream_loop(worker *w) noexcept nogil:
    cdef stream *s = <stream *>w
    cdef int fd
    cdef uint64_t size
    cdef uint64_t now = clock_now_ns()
    if w.index == s.session.terms.sockets:
        await_results(w, s.session)
        return
    fd = s.session.fds[w.index + 1]
    tcp_path_read(&s.path, fd, now)
    while now < w.deadline_ns and worker_running(w):
        size = initiator_reserve(s.session, s.session.terms.request_bytes)
        if not size:
            break
        now = send_message(s, fd, size, now)
        if not now:
            return
    tcp_path_read(&s.path, fd, clock_now_ns())
    if worker_running(w):
        shutdown(fd, SHUT_WR)


cdef int tcp_stream_serve(service *v) noexcept nogil:
    """Receive until FIN. Returns 0 for that, else -errno."""
    cdef int flags = MSG_TRUNC if v.terms.receive == RECEIVE_DISCARD else 0
    cdef ssize_t n
    cdef int error
    while service_running(v):
        n = recv(v.fd, v.buffer, SERVICE_STREAM_BYTES, flags)
        if n == 0:
            return 0
        if n > 0:
            error = service_count(v, <uint64_t>n, 1, clock_now_ns())
            if error:
                return error
        elif errno != EINTR:
            return -errno
    return -EINTR


cdef class TcpStream(Initiator):
    """Sends messages of `message_bytes` over `streams` connections for `duration_ms`, `max_bytes` in all at the most.

    `dials` as in initiator.h; `giving_up` is asked every 50 ms while dialing. Raises UsageError for what no responder
    would keep.
    """

    cdef uint8_t *_message

    def __init__(self, *, str host not None, uint16_t port, bytes session_id not None, bytes key not None,
                 uint32_t duration_ms, uint32_t interval_ms, uint64_t max_bytes, unsigned int streams=1,
                 unsigned int message_bytes=128 * 1024, bint discard=False, str placement not None="inherit",
                 uint32_t dials=0, giving_up=lambda: False):
        super().__init__(placement=placement, duration_ms=duration_ms)
        if not 0 < streams <= SESSION_MAX_STREAMS:
            raise UsageError(f"{streams} streams: there may be 1 to {SESSION_MAX_STREAMS}")
        if not 0 < message_bytes <= SESSION_MAX_MESSAGE:
            raise UsageError(f"messages of {message_bytes} bytes: there may be 1 to {SESSION_MAX_MESSAGE}")
        terms = {
            "sockets": streams,
            "receive": RECEIVE_DISCARD if discard else RECEIVE_COPY,
            "interval_ms": interval_ms,
            "duration_ms": duration_ms,
            "request_bytes": message_bytes,
        }
        self._invite(KIND_TCP_STREAM, terms, (host, port, session_id, key, max_bytes, dials, giving_up))
        self._facts["engine"] = "tcp_stream"
        self._facts["receive"] = "discard" if discard else "copy"
        self._staff(streams + 1, sizeof(stream), stream_loop, NULL)

    cdef int _outfit(self, worker *w) except -1:
        cdef stream *s = <stream *>w
        s.session = &self._session
        s.message = self._random_message()
        tcp_path_init(&s.path)
        if w.index == self._session.terms.sockets:
            return 0
        self._count("sent_bytes", &s.sent_bytes)
        self._count("send_calls", &s.send_calls)
        self._count("retransmitted_segments", &s.path.retransmitted_segments)
        return self._observe("send_call_ns", &s.send_call)

    cdef void _retire(self, worker *w) noexcept nogil:
        free(self._message)  # with the first worker, for all
        self._message = NULL

    cdef int _open(self) except -1:
        cdef char[TCP_PATH_NAME_BYTES] name
        Initiator._open(self)
        if tcp_congestion_control(self._session.fds[1], name) == 0:
            self._facts["congestion_control"] = name.decode()
        return 0

    @property
    def facts(self):
        """What was found and used, and what the kernel last said of the connections."""
        known = dict(self._facts)
        known.update(self._path_facts())
        return known

    cdef dict _path_facts(self):
        """Means of the round-trip times, sums of the windows and rates; what one stream does not know is absent."""
        if self._block is NULL:
            return {}
        cdef stream *s
        cdef list rows = []
        for i in range(self._session.terms.sockets):
            s = <stream *>self._worker(i)
            rows.append((counter_read(&s.path.rtt_ns), counter_read(&s.path.min_rtt_ns),
                         counter_read(&s.path.cwnd_segments), counter_read(&s.path.delivery_bytes_per_s)))
        rtt, min_rtt, cwnd, rate = zip(*rows, strict=True)
        sums = {"rtt_ns": sum(rtt) // len(rtt), "min_rtt_ns": min(min_rtt), "cwnd_segments": sum(cwnd),
                "delivery_bytes_per_s": sum(rate)}
        unknown = {name for name, values in zip(sums, (rtt, min_rtt, cwnd, rate), strict=True)
                   if COUNTER_UNKNOWN in values}
        return {name: str(value) for name, value in sums.items() if name not in unknown}

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
