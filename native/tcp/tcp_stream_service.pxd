"""The serving side of tcp_stream, for the responder's table."""

from cvmprobe.native.service cimport service


cdef int tcp_stream_serve(service *v) noexcept nogil
