/* One call after the other on the worker's own thread: the backend that is always to be had, and the one a
 * write-ahead log uses. The call is made by `reap`, so that its time counts as the device's, not as submitting. */
#ifndef CVMPROBE_DISK_SYNC_H
#define CVMPROBE_DISK_SYNC_H

#include <string.h>

#include "disk/disk_call.h"

struct disk_sync {
    struct disk_queue queue;
    struct disk_target target;
    struct disk_call next;
    bool queued;
};

static int disk_sync_open(struct disk_queue *queue, const struct disk_target *target)
{
    struct disk_sync *sync = (struct disk_sync *)queue;
    memset(sync, 0, sizeof *sync);
    sync->target = *target;
    return 0;
}

static void disk_sync_put(struct disk_queue *queue, uint32_t slot, enum disk_operation operation, uint64_t offset)
{
    struct disk_sync *sync = (struct disk_sync *)queue;
    sync->next = (struct disk_call){.operation = operation, .offset = offset};
    sync->queued = true;
    (void)slot; /* there is one */
}

static int disk_sync_submit(struct disk_queue *queue)
{
    (void)queue;
    return 0;
}

static int disk_sync_reap(struct disk_queue *queue, struct disk_completion out[DISK_BATCH], uint64_t wait_ns)
{
    struct disk_sync *sync = (struct disk_sync *)queue;
    (void)wait_ns; /* the call returns when it has ended, not before */
    if (!sync->queued)
        return 0;
    sync->queued = false;
    out[0] = (struct disk_completion){.slot = 0, .result = disk_call_make(&sync->target, 0, &sync->next)};
    return 1;
}

static void disk_sync_close(struct disk_queue *queue)
{
    (void)queue;
}

static const struct disk_backend SYNC = {
    .name = "sync",
    .max_depth = 1,
    .state_bytes = sizeof(struct disk_sync),
    .open = disk_sync_open,
    .put = disk_sync_put,
    .submit = disk_sync_submit,
    .reap = disk_sync_reap,
    .close = disk_sync_close,
};

#endif
