"""kernel_stamp.h: when the kernel had what a receive call returns."""

from libc.stdint cimport uint64_t


cdef extern from "socket/kernel_stamp.h" nogil:
    int kernel_stamp_ask(int fd)
    ssize_t kernel_stamp_recv(int fd, void *data, size_t size, int flags, uint64_t *stamp_ns)
