"""The serving side of udp_stream, for the responder's table."""

from cvmprobe.native.service cimport service


cdef int udp_stream_serve(service *v) noexcept nogil
