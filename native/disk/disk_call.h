/* One operation by one call that returns when it has ended: what the backends `threads` and `sync` are made of. */
#ifndef CVMPROBE_DISK_CALL_H
#define CVMPROBE_DISK_CALL_H

#include <errno.h>
#include <unistd.h>

#include "disk/disk_backend.h"

struct disk_call {
    enum disk_operation operation;
    uint64_t offset;
};

/* Bytes moved (a sync: 0), or -errno. */
static inline int32_t disk_call_make(const struct disk_target *target, uint32_t slot, const struct disk_call *call)
{
    unsigned char *block = target->buffers + (size_t)slot * target->block_bytes;
    ssize_t done;
    if (call->operation == DISK_SYNC)
        done = target->data_only ? fdatasync(target->fd) : fsync(target->fd);
    else if (call->operation == DISK_WRITE)
        done = pwrite(target->fd, block, target->block_bytes, (off_t)call->offset);
    else
        done = pread(target->fd, block, target->block_bytes, (off_t)call->offset);
    return done < 0 ? -errno : (int32_t)done;
}

#endif
