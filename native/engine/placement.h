/* Which CPU a worker runs on: wherever its process may (inherit), or one of a list. */
#ifndef CVMPROBE_PLACEMENT_H
#define CVMPROBE_PLACEMENT_H

#include <errno.h>
#include <sched.h>
#include <stdint.h>

#define PLACEMENT_MAX_CPUS 1024

struct placement {
    unsigned count; /* 0: inherit */
    uint16_t cpus[PLACEMENT_MAX_CPUS];
};

/* Pin the calling thread, the index-th of its engine, to the list's entry for it. Returns 0 or -errno. */
static inline int placement_apply(const struct placement *p, unsigned index)
{
    if (!p || !p->count)
        return 0;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(p->cpus[index % p->count], &set);
    return sched_setaffinity(0, sizeof set, &set) ? -errno : 0;
}

#endif
