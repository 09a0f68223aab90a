/* io_uring by raw system calls: registered ring, file and buffers, one issuer.
 *
 * The kernel's own header may be older than the kernel, or absent, so the few structures and constants in use are
 * stated here; they are ABI and cannot change.
 */
#ifndef CVMPROBE_IO_URING_H
#define CVMPROBE_IO_URING_H

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "disk/disk_backend.h"

#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif

enum {
    URING_SETUP_CQSIZE = 1u << 3,
    URING_SETUP_COOP_TASKRUN = 1u << 8,
    URING_SETUP_SINGLE_ISSUER = 1u << 12,
    URING_SETUP_DEFER_TASKRUN = 1u << 13,
    URING_FEAT_SINGLE_MMAP = 1u << 0,
    URING_FEAT_EXT_ARG = 1u << 8,
    URING_ENTER_GETEVENTS = 1u << 0,
    URING_ENTER_EXT_ARG = 1u << 3,
    URING_ENTER_REGISTERED_RING = 1u << 4,
    URING_REGISTER_BUFFERS = 0,
    URING_REGISTER_FILES = 2,
    URING_REGISTER_RING_FDS = 20,
    URING_OP_FSYNC = 3,
    URING_OP_READ_FIXED = 4,
    URING_OP_WRITE_FIXED = 5,
    URING_OP_READ = 22,
    URING_OP_WRITE = 23,
    URING_SQE_FIXED_FILE = 1u << 0,
    URING_FSYNC_DATASYNC = 1u << 0,
};
#define URING_OFF_RINGS 0
#define URING_OFF_SQES 0x10000000

struct uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct {
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
        uint64_t user_addr;
    } sq_off;
    struct {
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
        uint64_t user_addr;
    } cq_off;
};

struct uring_sqe {
    uint8_t opcode, flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t offset, address;
    uint32_t length, rw_flags;
    uint64_t user_data;
    uint16_t buffer_index, personality;
    uint32_t file_index;
    uint64_t reserved[2];
};

struct uring_cqe {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};

struct uring_wait {
    uint64_t sigmask;
    uint32_t sigmask_bytes, reserved;
    uint64_t timeout;
};

struct uring_timeout {
    int64_t tv_sec;
    int64_t tv_nsec;
};

struct uring_ring_fd {
    uint32_t offset, reserved;
    uint64_t fd;
};

static_assert(sizeof(struct uring_params) == 120, "kernel ABI");
static_assert(sizeof(struct uring_sqe) == 64, "kernel ABI");
static_assert(sizeof(struct uring_cqe) == 16, "kernel ABI");
static_assert(sizeof(struct uring_wait) == 24, "kernel ABI");
static_assert(sizeof(struct uring_ring_fd) == 16, "kernel ABI");

struct uring {
    struct disk_queue queue;
    struct disk_target target;
    int fd;       /* -1: closed */
    int enter_fd; /* the ring's fd, or its index once registered with the worker */
    uint32_t enter_flags;
    uint8_t read_opcode, write_opcode;
    uint32_t queued; /* put, not yet submitted */
    uint32_t sq_mask, cq_mask;
    uint32_t *sq_tail, *cq_head, *cq_tail;
    struct uring_sqe *sqes;
    struct uring_cqe *cqes;
    void *rings;
    size_t rings_bytes, sqes_bytes;
};

static void uring_close(struct disk_queue *queue)
{
    struct uring *ring = (struct uring *)queue;
    if (ring->fd >= 0)
        close(ring->fd);
    if (ring->rings)
        munmap(ring->rings, ring->rings_bytes);
    if (ring->sqes)
        munmap(ring->sqes, ring->sqes_bytes);
    ring->fd = -1;
    ring->rings = NULL;
    ring->sqes = NULL;
}

/* Ask for all flags and give up the newest first where the kernel does not know them. */
static int uring_setup(struct uring *ring, struct uring_params *params)
{
    static const uint32_t optional[] = {
        URING_SETUP_DEFER_TASKRUN, URING_SETUP_SINGLE_ISSUER, URING_SETUP_COOP_TASKRUN, URING_SETUP_CQSIZE};
    uint32_t flags = 0;
    for (size_t i = 0; i < sizeof optional / sizeof *optional; i++)
        flags |= optional[i];
    ring->queue.call = "io_uring_setup";
    for (size_t given_up = 0;; given_up++) {
        memset(params, 0, sizeof *params);
        params->flags = flags;
        params->cq_entries = flags & URING_SETUP_CQSIZE ? ring->target.depth : 0;
        ring->fd = (int)syscall(__NR_io_uring_setup, ring->target.depth, params);
        ring->queue.setup_flags = flags;
        if (ring->fd >= 0)
            return 0;
        if (errno != EINVAL || given_up == sizeof optional / sizeof *optional)
            return -errno;
        flags &= ~optional[given_up];
    }
}

static int uring_map(struct uring *ring, const struct uring_params *params)
{
    size_t sq_bytes = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
    size_t cq_bytes = params->cq_off.cqes + params->cq_entries * sizeof(struct uring_cqe);
    ring->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    ring->sqes_bytes = params->sq_entries * sizeof(struct uring_sqe);
    ring->queue.call = "mmap";
    const int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    void *rings = mmap(NULL, ring->rings_bytes, protection, flags, ring->fd, URING_OFF_RINGS);
    if (rings == MAP_FAILED)
        return -errno;
    ring->rings = rings;
    void *sqes = mmap(NULL, ring->sqes_bytes, protection, flags, ring->fd, URING_OFF_SQES);
    if (sqes == MAP_FAILED)
        return -errno;
    ring->sqes = sqes;
    unsigned char *base = rings;
    ring->sq_tail = (uint32_t *)(base + params->sq_off.tail);
    ring->sq_mask = *(uint32_t *)(base + params->sq_off.ring_mask);
    ring->cq_head = (uint32_t *)(base + params->cq_off.head);
    ring->cq_tail = (uint32_t *)(base + params->cq_off.tail);
    ring->cq_mask = *(uint32_t *)(base + params->cq_off.ring_mask);
    ring->cqes = (struct uring_cqe *)(base + params->cq_off.cqes);
    uint32_t *array = (uint32_t *)(base + params->sq_off.array);
    for (uint32_t i = 0; i < params->sq_entries; i++)
        array[i] = i;
    return 0;
}

static int uring_register(struct uring *ring, uint32_t what, const void *argument, uint32_t count)
{
    ring->queue.call = "io_uring_register";
    long done = syscall(__NR_io_uring_register, ring->fd, what, argument, count);
    return done < 0 ? -errno : (int)done;
}

/* The file must register. Buffers count against RLIMIT_MEMLOCK, which may be small: without them it works too. */
static int uring_register_target(struct uring *ring)
{
    const struct disk_target *target = &ring->target;
    struct iovec region = {.iov_base = target->buffers, .iov_len = (size_t)target->depth * target->block_bytes};
    int error = uring_register(ring, URING_REGISTER_FILES, &target->fd, 1);
    if (error < 0)
        return error;
    ring->queue.buffers_error = -uring_register(ring, URING_REGISTER_BUFFERS, &region, 1);
    ring->read_opcode = ring->queue.buffers_error ? URING_OP_READ : URING_OP_READ_FIXED;
    ring->write_opcode = ring->queue.buffers_error ? URING_OP_WRITE : URING_OP_WRITE_FIXED;
    return 0;
}

/* Since Linux 5.18 a thread may name its ring by an index, which saves a look-up per call. */
static void uring_register_ring(struct uring *ring)
{
    struct uring_ring_fd registered = {.offset = UINT32_MAX, .fd = (uint64_t)ring->fd};
    bool indexed = uring_register(ring, URING_REGISTER_RING_FDS, &registered, 1) == 1;
    ring->enter_fd = indexed ? (int)registered.offset : ring->fd;
    ring->enter_flags = indexed ? URING_ENTER_REGISTERED_RING : 0;
}

static int uring_open(struct disk_queue *queue, const struct disk_target *target)
{
    struct uring *ring = (struct uring *)queue;
    struct uring_params params;
    memset(ring, 0, sizeof *ring);
    ring->target = *target;
    int error = uring_setup(ring, &params);
    const uint32_t needed = URING_FEAT_EXT_ARG | URING_FEAT_SINGLE_MMAP;
    if (!error && (params.features & needed) != needed)
        error = -ENOSYS; /* before Linux 5.11 a wait has no timeout */
    if (!error)
        error = uring_map(ring, &params);
    if (!error)
        error = uring_register_target(ring);
    if (error)
        uring_close(queue);
    else
        uring_register_ring(ring);
    return error;
}

static void uring_put(struct disk_queue *queue, uint32_t slot, enum disk_operation operation, uint64_t offset)
{
    struct uring *ring = (struct uring *)queue;
    uint32_t tail = *ring->sq_tail;
    struct uring_sqe *sqe = &ring->sqes[tail & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->flags = URING_SQE_FIXED_FILE;
    sqe->user_data = slot;
    if (operation == DISK_SYNC) {
        sqe->opcode = URING_OP_FSYNC;
        sqe->rw_flags = ring->target.data_only ? URING_FSYNC_DATASYNC : 0;
    } else {
        sqe->opcode = operation == DISK_WRITE ? ring->write_opcode : ring->read_opcode;
        sqe->offset = offset;
        sqe->address = (uint64_t)(uintptr_t)(ring->target.buffers + (size_t)slot * ring->target.block_bytes);
        sqe->length = ring->target.block_bytes;
    }
    __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
    ring->queued++;
}

static int uring_submit(struct disk_queue *queue)
{
    struct uring *ring = (struct uring *)queue;
    queue->call = "io_uring_enter";
    while (ring->queued) {
        long taken = syscall(__NR_io_uring_enter, ring->enter_fd, ring->queued, 0, ring->enter_flags, NULL, 0);
        if (taken < 0 && errno == EINTR)
            continue;
        if (taken < 0)
            return -errno;
        ring->queued -= (uint32_t)taken;
    }
    return 0;
}

static int uring_wait(struct uring *ring, uint64_t wait_ns)
{
    struct uring_timeout timeout = {.tv_sec = 0, .tv_nsec = (int64_t)wait_ns};
    struct uring_wait wait = {.timeout = (uint64_t)(uintptr_t)&timeout};
    uint32_t flags = ring->enter_flags | URING_ENTER_GETEVENTS | URING_ENTER_EXT_ARG;
    ring->queue.call = "io_uring_enter";
    if (syscall(__NR_io_uring_enter, ring->enter_fd, 0, wait_ns > 0, flags, &wait, sizeof wait) >= 0)
        return 0;
    return errno == ETIME || errno == EINTR ? 0 : -errno;
}

static int uring_reap(struct disk_queue *queue, struct disk_completion out[DISK_BATCH], uint64_t wait_ns)
{
    struct uring *ring = (struct uring *)queue;
    uint32_t head = *ring->cq_head;
    uint32_t tail = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
    if (head == tail) {
        int error = uring_wait(ring, wait_ns);
        if (error)
            return error;
        tail = __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE);
    }
    uint32_t count = 0;
    for (; head != tail && count < DISK_BATCH; head++, count++) {
        const struct uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
        out[count].slot = (uint32_t)cqe->user_data;
        out[count].result = cqe->result;
    }
    __atomic_store_n(ring->cq_head, head, __ATOMIC_RELEASE);
    return (int)count;
}

static const struct disk_backend IO_URING = {
    .name = "io_uring",
    .capabilities = DISK_REGISTERS,
    .max_depth = DISK_MAX_DEPTH,
    .state_bytes = sizeof(struct uring),
    .open = uring_open,
    .put = uring_put,
    .submit = uring_submit,
    .reap = uring_reap,
    .close = uring_close,
};

#endif
