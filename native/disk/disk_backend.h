/* What the disk engine asks of an interface of the kernel: one table per backend. */
#ifndef CVMPROBE_DISK_BACKEND_H
#define CVMPROBE_DISK_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISK_BATCH 4           /* operations per submit and per reap: one big batch is slower on real devices */
#define DISK_WAIT_NS 100000000 /* the longest wait, so that stop is seen in time */
#define DISK_MAX_DEPTH 1024

enum disk_operation { DISK_READ, DISK_WRITE, DISK_SYNC };

/* The file and the memory all operations use: slot i owns block i of the buffers. */
struct disk_target {
    int fd;
    uint32_t depth;
    uint32_t block_bytes;
    bool data_only;         /* a sync is fdatasync, else fsync */
    unsigned char *buffers; /* page-aligned, depth * block_bytes */
};

/* One operation that ended: bytes moved (a sync: 0), or -errno. */
struct disk_completion {
    uint32_t slot;
    int32_t result;
};

/* Every backend's state begins with this. */
struct disk_queue {
    const char *call;      /* the system call made last, as the manual names it */
    uint32_t setup_flags;  /* what the kernel agreed to */
    int32_t buffers_error; /* errno that kept the buffers from being registered, or 0 */
    uint64_t pool_cpu_ns;  /* atomic; of threads that are the backend's own */
};

/* What a backend can do that another cannot. */
enum {
    DISK_REGISTERS = 1u << 0, /* file, buffers and ring are known to the kernel before the start */
    DISK_POOL = 1u << 1,      /* has threads of its own, whose CPU time is apart */
};

/* All functions return 0, a count, or -errno; `queue->call` then names the call. `open` leaves nothing on failure; all
 * but `close` are called on one thread. `submit` hands over everything put since the last one; `reap` waits for one
 * completion, wait_ns at most (0: it only looks), and returns those there are. */
struct disk_backend {
    const char *name;
    uint32_t capabilities;
    uint32_t max_depth; /* a deeper queue is cut to this */
    size_t state_bytes;
    int (*open)(struct disk_queue *queue, const struct disk_target *target);
    void (*put)(struct disk_queue *queue, uint32_t slot, enum disk_operation operation, uint64_t offset);
    int (*submit)(struct disk_queue *queue);
    int (*reap)(struct disk_queue *queue, struct disk_completion out[DISK_BATCH], uint64_t wait_ns);
    void (*close)(struct disk_queue *queue);
};

#endif
