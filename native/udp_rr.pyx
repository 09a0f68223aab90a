"""Request and response in single datagrams over connected UDP sockets: the serving side."""

from libc.errno cimport EAGAIN, ECONNREFUSED, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.service cimport (
    service, service_count, service_drains, service_ended, service_running,
)
from cvmprobe.native.session cimport WAIT_SPIN
from cvmprobe.native.udp_datagram cimport udp_header, udp_header_read


cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_TRUNC
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)


cdef enum:
    LOOKS = 256  # tries of a spinning reader between two looks at the clock
    IDLE_NS = 100000000  # a spinning responder that hears nothing for so long sleeps until it does


cdef ssize_t receive_request(service *v) noexcept nogil:
    """Receive one datagram, waiting as the terms say. Returns its size, or what recv says of none."""
    cdef uint64_t began = 0
    cdef uint32_t looks = 0
    cdef ssize_t n
    if v.terms.wait != WAIT_SPIN or service_ended(v):
        return recv(v.fd, v.buffer, v.terms.request_bytes, MSG_DONTWAIT * service_ended(v) | MSG_TRUNC)
    while service_running(v) and not service_ended(v):
        n = recv(v.fd, v.buffer, v.terms.request_bytes, MSG_DONTWAIT | MSG_TRUNC)
        if n >= 0 or errno != EAGAIN:
            return n
        looks += 1
        if looks % LOOKS:
            continue
        if not began:
            began = clock_now_ns()
        elif clock_now_ns() - began > IDLE_NS:
            return recv(v.fd, v.buffer, v.terms.request_bytes, MSG_TRUNC)
    return 0


cdef int udp_rr_serve(service *v) noexcept nogil:
    """Answer each request under its own header until the initiator has ended. Returns 0 for that, else -errno."""
    cdef uint64_t whole = v.terms.request_bytes + v.terms.response_bytes
    cdef uint64_t last = 0
    cdef udp_header h
    cdef ssize_t n
    while service_running(v):
        n = receive_request(v)
        if n == v.terms.request_bytes and udp_header_read(&h, v.buffer, n, v.tag):
            last = clock_now_ns()
            if service_count(v, whole, 1, last):
                return -EINTR
            send(v.fd, v.buffer, v.terms.response_bytes, MSG_NOSIGNAL)
        elif n > 0:
            continue  # not of this session
        elif service_ended(v):
            if not service_drains(v, last):
                return 0
        elif n < 0 and errno != EAGAIN and errno != EINTR and errno != ECONNREFUSED:
            return -errno
    return -EINTR
