"""The responder's end of a stream: it receives what the initiator sends, or sends until the duration is over.

    receiving   first payload byte                              last byte  FIN
                   |--recv--|--recv--| …                      --recv--|        one clock read after each recv
                   |-- bin 0 --|-- bin 1 --| … |-- after the deadline --|      of the same length as the windows

    sending     start: one byte                              deadline   FIN     the initiator's FIN
                   |--send--|--send--| …             --send--|------|     |-- drain --|
                      |-- bin 0 --|-- bin 1 --| …                one clock read after each send

The clock is CLOCK_MONOTONIC. TCP_INFO of a sending socket is read every 100 ms, and last when all of it has arrived.
"""

from libc.errno cimport EAGAIN, EINTR, EPROTO, errno
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from cvmprobe.native.budget cimport budget_take
from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.service cimport (
    SERVICE_STREAM_BYTES, service, service_count, service_count_sent, service_running,
)
from cvmprobe.native.session cimport (
    DIRECTION_BOTH, RECEIVE_DISCARD, RESULT_BUSY_NS, RESULT_CONGESTION, RESULT_MIN_RTT_NS, RESULT_MSS_BYTES,
    RESULT_PATH_MTU_BYTES, RESULT_REORDERING_EVENTS, RESULT_RETRANSMITTED_SEGMENTS, RESULT_RTT_NS,
    RESULT_RWND_LIMITED_NS, RESULT_SNDBUF_LIMITED_NS, SESSION_CONGESTION_BYTES, session_responder_sends,
)
from cvmprobe.native.sys_socket cimport SOL_SOCKET, SO_SNDTIMEO, setsockopt
from cvmprobe.native.tcp_path cimport (
    TCP_PATH_NAME_BYTES, tcp_congestion_control, tcp_path, tcp_path_init, tcp_path_read, tcp_path_watch,
)
from cvmprobe.native.tcp_stream cimport MSG_NOSIGNAL, MSG_TRUNC, SHUT_WR, getrandom, recv, send, shutdown


cdef extern from "<sys/time.h>" nogil:
    struct timeval:
        long tv_sec
        long tv_usec

cdef extern from "<linux/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP


cdef enum:
    SLICE_US = 50000  # longest send without a look at the path and at whether to go on


cdef int tcp_stream_serve(service *v) noexcept nogil:
    """Serve one data socket to its end. Returns 0 where both ends have seen all of it, else -errno."""
    cdef int error
    tell_congestion_control(v)
    if not session_responder_sends(v.terms, v.worker.index + 1):
        return receive_all(v)
    prepare_to_send(v)
    error = fill_message(v)
    if not error:
        error = await_word(v, 1)
    if not error:
        error = send_all(v)
    return error


cdef void tell_congestion_control(service *v) noexcept nogil:
    cdef char[TCP_PATH_NAME_BYTES] name
    memset(name, 0, sizeof(name))
    if tcp_congestion_control(v.fd, name) == 0:
        memcpy(&v.counts[<int>RESULT_CONGESTION], name, SESSION_CONGESTION_BYTES)


cdef int receive_all(service *v) noexcept nogil:
    """Receive until FIN."""
    cdef int flags = MSG_TRUNC if v.terms.receive == RECEIVE_DISCARD else 0
    cdef ssize_t n
    cdef int error
    if v.terms.direction == DIRECTION_BOTH:
        tell_path(v, NULL)
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


cdef int await_word(service *v, ssize_t size) noexcept nogil:
    """Wait for the initiator's next word: of one byte, it starts; of none, it has read everything."""
    cdef char[2] word
    cdef ssize_t n = -1
    while service_running(v):
        n = recv(v.fd, word, sizeof(word), 0)
        if n >= 0:
            return 0 if n == size else -EPROTO
        if errno != EINTR:
            return -errno
    return -EINTR


cdef int send_message(service *v, tcp_path *path, uint64_t size, uint64_t deadline_ns) noexcept nogil:
    """Send one message, all of it unless cut or past the deadline. Returns 1, 0 past the deadline, or -errno."""
    cdef uint64_t left = size
    cdef uint64_t now
    cdef ssize_t n
    cdef int error = 0
    while service_running(v):
        n = send(v.fd, v.buffer + (size - left), left, MSG_NOSIGNAL)
        if n < 0 and errno != EAGAIN and errno != EINTR:
            return -errno
        now = clock_now_ns()
        if n > 0:
            left -= <uint64_t>n
            error = service_count_sent(v, <uint64_t>n, left == 0, now)
        tcp_path_watch(path, v.fd, now)
        if error or not left or now >= deadline_ns:
            return error if error else now < deadline_ns
    return -EINTR


cdef void prepare_to_send(service *v) noexcept nogil:
    """As the initiator sends: woken while nothing goes, and segments filled up."""
    cdef timeval slice
    cdef int off = 0
    slice.tv_sec = 0
    slice.tv_usec = SLICE_US
    setsockopt(v.fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof(slice))
    setsockopt(v.fd, IPPROTO_TCP, TCP_NODELAY, &off, sizeof(off))


cdef int send_all(service *v) noexcept nogil:
    """Send until the duration or the limit is over, FIN, and wait until the initiator has read it all."""
    cdef tcp_path path
    cdef uint64_t size
    cdef uint64_t now = clock_now_ns()
    cdef uint64_t deadline_ns = now + v.terms.duration_ms * <uint64_t>1000000
    cdef int r = 1
    tcp_path_init(&path)
    tcp_path_read(&path, v.fd, now)
    while r > 0:
        size = budget_take(&v.tally.budget, v.terms.request_bytes)
        r = send_message(v, &path, size, deadline_ns) if size else 0
    if r == 0:
        shutdown(v.fd, SHUT_WR)
        r = await_word(v, 0)
    tcp_path_read(&path, v.fd, clock_now_ns())
    tell_path(v, &path)
    return r


cdef int fill_message(service *v) noexcept nogil:
    """Random bytes, so that nothing on the way can compress them. Returns 0 or -errno."""
    cdef uint64_t filled = 0
    cdef ssize_t n
    while filled < v.terms.request_bytes:
        n = getrandom(v.buffer + filled, v.terms.request_bytes - filled, 0)
        if n < 0 and errno != EINTR:
            return -errno
        filled += <uint64_t>max(n, 0)
    return 0


cdef void tell_path(service *v, tcp_path *p) noexcept nogil:
    """Put into the results what the kernel said of a connection we send on; one we receive on adds nothing."""
    v.counts[<int>RESULT_RETRANSMITTED_SEGMENTS] = p.retransmitted_segments if p else 0
    v.counts[<int>RESULT_REORDERING_EVENTS] = p.reordering_events if p else 0
    v.counts[<int>RESULT_BUSY_NS] = p.busy_ns if p else 0
    v.counts[<int>RESULT_RWND_LIMITED_NS] = p.rwnd_limited_ns if p else 0
    v.counts[<int>RESULT_SNDBUF_LIMITED_NS] = p.sndbuf_limited_ns if p else 0
    if p:
        v.counts[<int>RESULT_RTT_NS] = p.rtt_ns
        v.counts[<int>RESULT_MIN_RTT_NS] = p.min_rtt_ns
        v.counts[<int>RESULT_PATH_MTU_BYTES] = p.path_mtu_bytes
        v.counts[<int>RESULT_MSS_BYTES] = p.mss_bytes
