"""tcp_crr_serve.h: the serving side of tcp_crr, for the responder's table."""

from cvmprobe.native.service cimport service


cdef extern from "tcp/tcp_crr_serve.h" nogil:
    int tcp_crr_serve(service *v)
