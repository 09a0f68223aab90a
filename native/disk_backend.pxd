"""disk_backend.h and the backends that fill its table."""

from libc.stdint cimport int32_t, uint32_t, uint64_t


cdef extern from "disk_backend.h" nogil:
    enum:
        DISK_BATCH
    struct disk_target:
        int fd
        uint32_t depth
        uint32_t block_bytes
        unsigned char *buffers
    struct disk_completion:
        uint32_t slot
        int32_t result
    struct disk_queue:
        const char *call
        uint32_t setup_flags
        int32_t buffers_error
    struct disk_backend:
        const char *name
        size_t state_bytes
        int (*open)(disk_queue *queue, const disk_target *target) noexcept nogil
        void (*put)(disk_queue *queue, uint32_t slot, bint write, uint64_t offset) noexcept nogil
        int (*submit)(disk_queue *queue) noexcept nogil
        int (*reap)(disk_queue *queue, disk_completion *out) noexcept nogil
        void (*close)(disk_queue *queue) noexcept nogil


cdef extern from "io_uring.h" nogil:
    const disk_backend IO_URING
    enum:
        URING_SETUP_CQSIZE
        URING_SETUP_COOP_TASKRUN
        URING_SETUP_SINGLE_ISSUER
        URING_SETUP_DEFER_TASKRUN


cdef extern from "libaio.h" nogil:
    const disk_backend LIBAIO
