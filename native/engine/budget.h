/* Payload bytes that several senders may send in all. */
#ifndef CVMPROBE_BUDGET_H
#define CVMPROBE_BUDGET_H

#include <stdint.h>

struct budget {
    uint64_t taken; /* atomic; beyond the limit once it is used up */
    uint64_t limit;
    uint64_t apart[6]; /* a line from what others write; not aligned, for it may lie in a Python object */
};

/* Take up to `wanted` bytes for one sender. Returns what may be sent; 0: it is used up. */
static inline uint64_t budget_take(struct budget *b, uint64_t wanted)
{
    uint64_t taken = __atomic_fetch_add(&b->taken, wanted, __ATOMIC_RELAXED);
    if (taken >= b->limit)
        return 0;
    return b->limit - taken < wanted ? b->limit - taken : wanted;
}

#endif
