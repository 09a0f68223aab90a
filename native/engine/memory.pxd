"""sys/mman.h: pages that are touched, or known to be whole, before anything is measured."""

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_POPULATE
        MADV_NOHUGEPAGE
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int madvise(void *address, size_t length, int advice)
    int munmap(void *address, size_t length)
