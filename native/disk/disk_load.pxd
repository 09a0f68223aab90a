"""disk_load.h: one worker of the disk engine; disk_backends.h: the interfaces of the kernel it can use."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from cvmprobe.native.histogram cimport histogram
from cvmprobe.native.pace cimport pace
from cvmprobe.native.ring cimport ring
from cvmprobe.native.worker cimport worker


cdef extern from "disk/disk_load.h" nogil:
    enum:
        DISK_BACKENDS
        DISK_MAX_DEPTH
        DISK_READ
        DISK_WRITE
        DISK_REGISTERS
        URING_SETUP_CQSIZE
        URING_SETUP_COOP_TASKRUN
        URING_SETUP_SINGLE_ISSUER
        URING_SETUP_DEFER_TASKRUN
    struct disk_target:
        int fd
        uint32_t depth
        uint32_t block_bytes
        bint data_only
        unsigned char *buffers
    struct disk_queue:
        uint32_t setup_flags
        int32_t buffers_error
    struct disk_backend:
        const char *name
        uint32_t capabilities
    const disk_backend **DISK_BACKEND_TABLE
    struct disk_refusal:
        const char *call
        int error
    struct disk_choice:
        const disk_backend *backend
        disk_queue *queue
        uint32_t depth
        disk_refusal *refused
    struct disk_direction:
        uint64_t operations
        uint64_t bytes
        histogram total
    struct disk_ledger:
        uint32_t *blocks
    struct disk_worker:
        worker worker
        disk_target target
        disk_choice choice
        unsigned int first_backend
        bint backend_alone
        bint sequential
        bint mixed
        bint open_loop
        bint log
        uint32_t read_percent
        uint32_t sync_every
        uint64_t blocks
        int64_t *budget
        uint64_t appends_left
        uint64_t stamp
        pace pace
        uint64_t phase_ns
        disk_ledger ledger
        uint64_t corrupt_blocks
        uint64_t misplaced_blocks
        uint64_t stale_blocks
        uint64_t unchecked_reads
        uint64_t first_bad_offset
        uint64_t syncs
        uint64_t slow_syncs
        uint64_t short_transfers
        uint64_t io_errors
        uint64_t space_errors
        uint64_t other_errors
        uint64_t abandoned
        uint64_t late
        uint64_t unstarted
        uint64_t pool_cpu_ns
        ring samples
        disk_direction *directions
        histogram total
        histogram submit
        histogram device
        histogram service
        histogram sync
        histogram commit
    int disk_prepare(worker *base)
    void disk_loop(worker *base)
    int disk_ledger_open(disk_ledger *ledger, uint64_t run, uint64_t count, uint32_t generation)
    void disk_ledger_close(disk_ledger *ledger)
    void disk_close_backend(disk_choice *choice)
