"""watch.h: many sockets, one thread."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "socket/watch.h" nogil:
    struct watch:
        int epoll
    int watch_open(watch *w)
    int watch_add(watch *w, int fd, uint32_t index)
    int watch_input(watch *w, int fd, uint32_t index)
    int watch_wait(watch *w, uint64_t now_ns, uint64_t until_ns)
    uint32_t watch_index(const watch *w, int event)
    bint watch_ends(const watch *w, int event)
    void watch_close(watch *w)
