"""The serving side of tcp_rr, for the responder's table."""

from cvmprobe.native.service cimport service


cdef int tcp_rr_serve(service *v) noexcept nogil
