"""tcp_rr_serve.h: the serving side of tcp_rr, for the responder's table."""

from cvmprobe.native.service cimport service


cdef extern from "tcp/tcp_rr_serve.h" nogil:
    int tcp_rr_serve(service *v)
