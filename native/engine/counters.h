/* Counters that only grow: one writer, any number of readers, no lock. */
#ifndef CVMPROBE_COUNTERS_H
#define CVMPROBE_COUNTERS_H

#include <stdint.h>

/* What a counter holds while its value is not known; a snapshot leaves it out. */
#define COUNTER_UNKNOWN UINT64_MAX

/* Only the owner writes, so a plain load, an add and one store that cannot tear are enough. */
static inline void counter_add(uint64_t *c, uint64_t n)
{
    __atomic_store_n(c, *c + n, __ATOMIC_RELAXED);
}

static inline void counter_set(uint64_t *c, uint64_t value)
{
    __atomic_store_n(c, value, __ATOMIC_RELAXED);
}

static inline uint64_t counter_read(const uint64_t *c)
{
    return __atomic_load_n(c, __ATOMIC_RELAXED);
}

#endif
