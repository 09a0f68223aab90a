"""The responder's end of a datagram stream: it receives what the initiator sends, or sends until the duration is over.

    receiving   first datagram                              the initiator has ended    quiet
                  |--recvmmsg--|--recvmmsg--| …           --recvmmsg--|--- late ones ---|     one clock read after each
                  |-- bin 0 --|-- bin 1 --| … |-- after the deadline --|

    sending     a header alone: begin                        deadline   the initiator has ended
                  |--send--|--send--| …                --send--|          |                   one clock read before each
                  |-- bin 0 --|-- bin 1 --| …

The clock is CLOCK_MONOTONIC.
"""

from libc.errno cimport EINTR, ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from cvmprobe.native.clock cimport clock_now_ns
from cvmprobe.native.pace cimport pace_start
from cvmprobe.native.service cimport (
    service, service_count, service_count_sent, service_drains, service_ended, service_running,
)
from cvmprobe.native.session cimport (
    DIRECTION_BOTH, RESULT_DUPLICATES, RESULT_JITTER_NS, RESULT_PATH_MTU_BYTES, RESULT_RECEIVE_OFFLOAD,
    RESULT_REORDERED, RESULT_REORDER_EXTENT, RESULT_SEND_ERRORS, RESULT_SEND_OFFLOAD, RESULT_SOCKET_DROPS,
    session_responder_sends,
)
from cvmprobe.native.sys_socket cimport MSG_DONTWAIT, recv
from cvmprobe.native.udp_datagram cimport udp_header, udp_header_read
from cvmprobe.native.udp_flow cimport (
    receiver_dropped, receiver_failed, receiver_new, receiver_open, receiver_receive, sender_afford, sender_new,
    sender_open, sender_send, sender_wait, udp_receiver, udp_sender,
)


cdef int udp_stream_serve(service *v) noexcept nogil:
    """Serve one data socket to its end. Returns 0 where the initiator has ended it, else -errno."""
    if session_responder_sends(v.terms, v.worker.index + 1):
        return serve_sending(v)
    return serve_receiving(v)


# -- receiving --

cdef int serve_receiving(service *v) noexcept nogil:
    cdef udp_receiver *r = receiver_new()
    if r is NULL:
        return -ENOMEM
    cdef int error = receiver_open(r, v.fd, v.tag, v.terms)
    if error == 0:
        error = receive_all(v, r)
        tell_received(v, r)
    free(r)
    return error


cdef int receive_all(service *v, udp_receiver *r) noexcept nogil:
    """Receive until the initiator has ended and it is quiet."""
    cdef uint64_t now
    cdef uint64_t last = 0
    cdef uint64_t known = 0
    cdef int error = 0
    while service_running(v):
        now = receiver_receive(r, MSG_DONTWAIT if service_ended(v) else 0, &error)
        if r.fresh:
            last = now
            error = service_count(v, r.fresh_bytes, r.sequence.unique - known, now)
            known = r.sequence.unique
        else:
            error = receiver_failed(r, error)
            if service_ended(v) and not service_drains(v, last):
                return 0
        if error:
            return error
    return -EINTR


cdef void tell_received(service *v, udp_receiver *r) noexcept nogil:
    v.counts[<int>RESULT_DUPLICATES] = r.sequence.duplicates
    v.counts[<int>RESULT_REORDERED] = r.sequence.reordered
    v.counts[<int>RESULT_REORDER_EXTENT] = r.sequence.reorder_extent
    v.counts[<int>RESULT_JITTER_NS] = r.jitter.sixteenfold >> 4
    v.counts[<int>RESULT_SOCKET_DROPS] = receiver_dropped(r)
    v.counts[<int>RESULT_RECEIVE_OFFLOAD] = r.offload
    if v.terms.direction == DIRECTION_BOTH:
        v.counts[<int>RESULT_SEND_ERRORS] = 0


# -- sending --

cdef int serve_sending(service *v) noexcept nogil:
    cdef udp_sender *s = sender_new(v.terms)
    if s is NULL:
        return -ENOMEM
    cdef int error = sender_open(s, v.fd, v.tag, v.terms)
    if error == 0:
        await_begin(v)
        error = send_all(v, s)
        await_end(v)
        tell_sent(v, s)
    free(s)
    return error


cdef void await_begin(service *v) noexcept nogil:
    """Wait for a datagram of this flow. What else comes, errors of an earlier try included, is passed over."""
    cdef udp_header h
    cdef uint8_t[64] word
    while service_running(v) and not service_ended(v):
        if udp_header_read(&h, word, recv(v.fd, word, sizeof(word), 0), v.tag):
            return


cdef int send_all(service *v, udp_sender *s) noexcept nogil:
    """Send until the duration or the limit is over, or the initiator has ended."""
    cdef uint64_t now = clock_now_ns()
    cdef uint64_t deadline_ns = now + v.terms.duration_ms * <uint64_t>1000000
    cdef uint64_t known
    cdef uint32_t count = 1
    cdef int error = 0
    pace_start(&s.pace, now)
    while now and not error and not service_ended(v):
        now = sender_wait(s, &v.tally.running, deadline_ns)
        count = sender_afford(s, &v.tally.budget) if now else 0
        if not count:
            break
        known = s.sequence
        error = sender_send(s, count, now)
        if s.sequence > known and service_count_sent(v, (s.sequence - known) * s.size, s.sequence - known, now):
            return -EINTR
    return error if service_running(v) else -EINTR


cdef void await_end(service *v) noexcept nogil:
    cdef uint8_t[64] word
    while service_running(v) and not service_ended(v):
        recv(v.fd, word, sizeof(word), 0)


cdef void tell_sent(service *v, udp_sender *s) noexcept nogil:
    v.counts[<int>RESULT_SEND_ERRORS] = s.refused
    v.counts[<int>RESULT_SEND_OFFLOAD] = s.offload
    v.counts[<int>RESULT_PATH_MTU_BYTES] = s.path.mtu_bytes
    if v.terms.direction == DIRECTION_BOTH:
        v.counts[<int>RESULT_DUPLICATES] = v.counts[<int>RESULT_REORDERED] = v.counts[<int>RESULT_SOCKET_DROPS] = 0
