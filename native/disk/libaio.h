/* Linux native AIO by raw system calls: the backend where io_uring is not allowed. */
#ifndef CVMPROBE_LIBAIO_H
#define CVMPROBE_LIBAIO_H

#include <errno.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "disk/disk_backend.h"

struct libaio {
    struct disk_queue queue;
    struct disk_target target;
    aio_context_t context;
    struct iocb *blocks;   /* one per slot */
    struct iocb **pending; /* put, not yet submitted */
    uint32_t pending_count;
};

static void libaio_close(struct disk_queue *queue)
{
    struct libaio *aio = (struct libaio *)queue;
    if (aio->context)
        syscall(__NR_io_destroy, aio->context); /* waits for what is still in flight */
    free(aio->blocks);
    free(aio->pending);
    memset(aio, 0, sizeof *aio);
}

static int libaio_open(struct disk_queue *queue, const struct disk_target *target)
{
    struct libaio *aio = (struct libaio *)queue;
    memset(aio, 0, sizeof *aio);
    aio->target = *target;
    aio->blocks = calloc(target->depth, sizeof *aio->blocks);
    aio->pending = calloc(target->depth, sizeof *aio->pending);
    queue->call = "io_setup";
    int error = 0;
    if (!aio->blocks || !aio->pending)
        error = -ENOMEM;
    else if (syscall(__NR_io_setup, target->depth, &aio->context))
        error = -errno;
    if (error) {
        libaio_close(queue);
        queue->call = "io_setup";
        return error;
    }
    return 0;
}

/* A sync wants every other field to be 0. */
static void libaio_put(struct disk_queue *queue, uint32_t slot, enum disk_operation operation, uint64_t offset)
{
    struct libaio *aio = (struct libaio *)queue;
    struct iocb *block = &aio->blocks[slot];
    *block = (struct iocb){.aio_data = slot, .aio_fildes = (uint32_t)aio->target.fd};
    if (operation == DISK_SYNC) {
        block->aio_lio_opcode = aio->target.data_only ? IOCB_CMD_FDSYNC : IOCB_CMD_FSYNC;
    } else {
        block->aio_lio_opcode = operation == DISK_WRITE ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
        block->aio_buf = (uint64_t)(uintptr_t)(aio->target.buffers + (size_t)slot * aio->target.block_bytes);
        block->aio_nbytes = aio->target.block_bytes;
        block->aio_offset = (int64_t)offset;
    }
    aio->pending[aio->pending_count++] = block;
}

static int libaio_submit(struct disk_queue *queue)
{
    struct libaio *aio = (struct libaio *)queue;
    uint32_t done = 0;
    queue->call = "io_submit";
    while (done < aio->pending_count) {
        long taken = syscall(__NR_io_submit, aio->context, (long)(aio->pending_count - done), aio->pending + done);
        if (taken < 0 && errno == EINTR)
            continue;
        if (taken < 0)
            return -errno;
        done += (uint32_t)taken;
    }
    aio->pending_count = 0;
    return 0;
}

static int libaio_reap(struct disk_queue *queue, struct disk_completion out[DISK_BATCH], uint64_t wait_ns)
{
    struct libaio *aio = (struct libaio *)queue;
    struct io_event events[DISK_BATCH];
    struct timespec timeout = {.tv_sec = 0, .tv_nsec = (long)wait_ns};
    queue->call = "io_getevents";
    long count = syscall(__NR_io_getevents, aio->context, 1L, (long)DISK_BATCH, events, &timeout);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    for (long i = 0; i < count; i++) {
        out[i].slot = (uint32_t)events[i].data;
        out[i].result = (int32_t)events[i].res;
    }
    return (int)count;
}

static const struct disk_backend LIBAIO = {
    .name = "libaio",
    .max_depth = DISK_MAX_DEPTH,
    .state_bytes = sizeof(struct libaio),
    .open = libaio_open,
    .put = libaio_put,
    .submit = libaio_submit,
    .reap = libaio_reap,
    .close = libaio_close,
};

#endif
