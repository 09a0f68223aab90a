"""udp_datagram.h: what a session sends over its UDP data sockets."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from cvmprobe.native.session cimport hello


cdef extern from "session/udp_datagram.h" nogil:
    struct udp_header:
        uint32_t tag
        uint32_t sent_ns
        uint64_t sequence
    uint32_t udp_tag(const hello *control, uint16_t index)
    bint udp_header_read(udp_header *h, const void *data, size_t size, uint32_t tag)
