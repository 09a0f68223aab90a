"""The responder's end of udp_rr: one thread answers the requests of all sockets of a session.

    request ── recv ── counted ── send, under the request's own header      a request that comes twice is answered twice

wait=block sleeps in recv, wait=spin asks without sleeping for as long as requests come; many sockets are watched.
"""

from libc.errno cimport EAGAIN, ECONNREFUSED, EINTR, ENOMEM, errno
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.service cimport service, service_count, service_drains, service_ended, service_running
from cvmprobe.native.session cimport RESULT_DUPLICATES, RESULT_REORDERED, RESULT_SEND_ERRORS, WAIT_SPIN
from cvmprobe.native.sys_socket cimport MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC, recv, send
from cvmprobe.native.udp_datagram cimport udp_header, udp_header_read
from cvmprobe.native.udp_sequence cimport sequence_take, udp_sequence
from cvmprobe.native.watch cimport watch, watch_close, watch_index, watch_input, watch_open, watch_wait


cdef enum:
    LOOKS = 256  # tries of a spinning reader between two looks at the clock
    IDLE_NS = 100000000  # a spinning responder that hears nothing for so long sleeps until it does


cdef struct serving:
    service *first  # of terms.sockets in a row; all is counted here
    bint many  # sockets: they are watched
    watch watch
    uint64_t last_ns
    udp_sequence seen


cdef int answer(serving *s, service *v, int flags) noexcept nogil:
    """Take one datagram and answer it. Returns 1 if there was one, 0 if there was none, or -errno."""
    cdef uint64_t whole = v.terms.request_bytes + v.terms.response_bytes
    cdef udp_header h
    cdef ssize_t n = recv(v.fd, s.first.buffer, v.terms.request_bytes, flags | MSG_TRUNC)
    if n < 0:
        return 0 if errno == EAGAIN or errno == EINTR or errno == ECONNREFUSED else -errno
    if n != v.terms.request_bytes or not udp_header_read(&h, s.first.buffer, n, v.tag):
        return n > 0
    s.last_ns = clock_now_ns()
    sequence_take(&s.seen, h.sequence)
    if service_count(s.first, whole, 1, s.last_ns):
        return -EINTR
    if send(v.fd, s.first.buffer, v.terms.response_bytes, MSG_NOSIGNAL) < 0:
        s.first.counts[<int>RESULT_SEND_ERRORS] += 1
    return 1


cdef int answer_spinning(serving *s) noexcept nogil:
    """Answer without sleeping until nothing has come for IDLE_NS; then sleep until something does."""
    cdef uint64_t began = clock_now_ns()
    cdef uint32_t looks = 0
    cdef int r
    while service_running(s.first) and not service_ended(s.first):
        r = answer(s, s.first, MSG_DONTWAIT)
        if r < 0:
            return r
        looks += 1
        if looks % LOOKS == 0 and clock_now_ns() - (s.last_ns if s.last_ns > began else began) > IDLE_NS:
            return answer(s, s.first, 0)
    return 0


cdef int answer_ready(serving *s, uint64_t until_ns) noexcept nogil:
    """Answer one datagram of each socket that has one; many: by then. Returns how many, or -errno."""
    cdef int i, r, answered = 0
    if not s.many:
        return answer(s, s.first, MSG_DONTWAIT)
    for i in range(watch_wait(&s.watch, 0, until_ns)):
        r = answer(s, s.first + watch_index(&s.watch, i), MSG_DONTWAIT)
        if r < 0:
            return r
        answered += r
    return answered


cdef bint sleeps(serving *s) noexcept nogil:
    """Whether to sleep until something comes to one of many sockets."""
    return s.first.terms.wait != WAIT_SPIN or clock_now_ns() - s.last_ns > IDLE_NS


cdef int answer_all(serving *s) noexcept nogil:
    """Answer until the initiator has ended and what was late is answered too. Returns 0 for that, else -errno."""
    cdef int r = 0
    while service_running(s.first) and r >= 0:
        if service_ended(s.first):
            r = answer_ready(s, 0)
            if r == 0 and not service_drains(s.first, s.last_ns):
                return 0
        elif s.many:
            r = answer_ready(s, UINT64_MAX if sleeps(s) else 0)
        elif s.first.terms.wait == WAIT_SPIN:
            r = answer_spinning(s)
        else:
            r = answer(s, s.first, 0)
    return r if r < 0 else -EINTR


cdef int watch_all(serving *s) noexcept nogil:
    """Watch all sockets. Returns 0 or -errno."""
    cdef int error = watch_open(&s.watch)
    cdef uint32_t i
    for i in range(s.first.terms.sockets):
        if not error:
            error = watch_input(&s.watch, (s.first + i).fd, i)
    return error


cdef int udp_rr_serve(service *first) noexcept nogil:
    """Answer requests until the initiator has ended. Returns 0 for that, else -errno."""
    cdef serving *s = <serving *>calloc(1, sizeof(serving))
    cdef int r = 0
    if s is NULL:
        return -ENOMEM
    s.first = first
    s.many = first.terms.sockets > 1
    s.watch.epoll = -1
    first.counts[<int>RESULT_SEND_ERRORS] = 0
    if s.many:
        r = watch_all(s)
    if not r:
        r = answer_all(s)
    first.counts[<int>RESULT_DUPLICATES] = s.seen.duplicates
    first.counts[<int>RESULT_REORDERED] = s.seen.reordered
    watch_close(&s.watch)
    free(s)
    return r
