"""The serving side of udp_rr, for the responder's table."""

from cvmprobe.native.service cimport service


cdef int udp_rr_serve(service *first) noexcept nogil
