/* What the disk engine asks of an asynchronous interface of the kernel: one table per backend. */
#ifndef CVMPROBE_DISK_BACKEND_H
#define CVMPROBE_DISK_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISK_BATCH 4           /* operations per submit and per reap: one big batch is slower on real devices */
#define DISK_WAIT_NS 100000000 /* the longest wait, so that stop is seen in time */

/* The file and the memory all operations use: slot i owns block i of the buffers. */
struct disk_target {
    int fd;
    uint32_t depth;
    uint32_t block_bytes;
    unsigned char *buffers; /* page-aligned, depth * block_bytes */
};

/* One operation that ended: bytes moved, or -errno. */
struct disk_completion {
    uint32_t slot;
    int32_t result;
};

/* Every backend's state begins with this. */
struct disk_queue {
    const char *call;      /* the system call made last, as the manual names it */
    uint32_t setup_flags;  /* what the kernel agreed to */
    int32_t buffers_error; /* errno that kept the buffers from being registered, or 0 */
};

/* All functions return 0, a count, or -errno; `queue->call` then names the call. `open` leaves nothing on failure; all
 * but `close` are called on one thread. `submit` hands over everything put since the last one; `reap` waits for one
 * completion, DISK_WAIT_NS at most, and returns those there are. */
struct disk_backend {
    const char *name;
    size_t state_bytes;
    int (*open)(struct disk_queue *queue, const struct disk_target *target);
    void (*put)(struct disk_queue *queue, uint32_t slot, bool write, uint64_t offset);
    int (*submit)(struct disk_queue *queue);
    int (*reap)(struct disk_queue *queue, struct disk_completion out[DISK_BATCH]);
    void (*close)(struct disk_queue *queue);
};

#endif
