/* All backends of the disk engine, best first, and which of them is to be had here. */
#ifndef CVMPROBE_DISK_BACKENDS_H
#define CVMPROBE_DISK_BACKENDS_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/disk_backend.h"
#include "disk/disk_sync.h"
#include "disk/disk_threads.h"
#include "disk/io_uring.h"
#include "disk/libaio.h"

enum { DISK_BACKENDS = 4, DISK_LINE_BYTES = 64 };

static const struct disk_backend *const DISK_BACKEND_TABLE[DISK_BACKENDS] = {&IO_URING, &LIBAIO, &THREADS, &SYNC};

/* What became of one backend that was tried: the call that failed, and its errno; NULL and 0: not tried, or in use. */
struct disk_refusal {
    const char *call;
    int error;
};

/* The backend in use, NULL before, and those refused on the way to it. */
struct disk_choice {
    const struct disk_backend *backend;
    struct disk_queue *queue;
    uint32_t depth; /* held, which may be less than was asked for */
    struct disk_refusal refused[DISK_BACKENDS];
};

/* Whether an errno means that this machine does not let us use a backend now: a profile, an older kernel, a limit. */
static inline bool disk_is_unavailable(int error)
{
    return error == EPERM || error == ENOSYS || error == EACCES || error == ENOMEM || error == EAGAIN;
}

static int disk_open_backend(struct disk_choice *choice, const struct disk_backend *backend,
                             const struct disk_target *target, const char **call)
{
    struct disk_target held = *target;
    size_t room = (backend->state_bytes + DISK_LINE_BYTES - 1) / DISK_LINE_BYTES * DISK_LINE_BYTES;
    struct disk_queue *queue = aligned_alloc(DISK_LINE_BYTES, room);
    *call = "aligned_alloc";
    if (!queue)
        return -ENOMEM;
    memset(queue, 0, room);
    if (held.depth > backend->max_depth)
        held.depth = backend->max_depth;
    int error = backend->open(queue, &held);
    *call = queue->call;
    if (error) {
        free(queue);
        return error;
    }
    choice->backend = backend;
    choice->queue = queue;
    choice->depth = held.depth;
    return 0;
}

/* Open the first backend from `first` on that is to be had; with `alone`, that one or none. On the thread that will
 * use it. Returns 0, or -errno and the call that failed. */
static int disk_choose_backend(struct disk_choice *choice, unsigned first, bool alone, const struct disk_target *target,
                               const char **call)
{
    for (unsigned i = first;; i++) {
        int error = disk_open_backend(choice, DISK_BACKEND_TABLE[i], target, call);
        if (!error || alone || i + 1 == DISK_BACKENDS || !disk_is_unavailable(-error))
            return error;
        choice->refused[i] = (struct disk_refusal){.call = *call, .error = -error};
    }
}

static void disk_close_backend(struct disk_choice *choice)
{
    if (!choice->backend)
        return;
    choice->backend->close(choice->queue);
    free(choice->queue);
    choice->backend = NULL;
    choice->queue = NULL;
}

#endif
