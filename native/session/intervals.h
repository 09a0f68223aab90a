/* Which interval since a session's first payload byte a moment falls into: the bins of its results. */
#ifndef CVMPROBE_INTERVALS_H
#define CVMPROBE_INTERVALS_H

#include <stdint.h>

#include "session/session.h"

/* Of one thread. */
struct intervals {
    const struct session_terms *terms;
    uint32_t count; /* session_bins() */
    uint32_t at;
    uint64_t end_ns; /* of the interval `at`; 0 until the first payload byte */
};

/* End of an interval; the last one is open. */
static inline uint64_t intervals_end(const struct intervals *v, uint64_t first_ns, uint32_t at)
{
    if (at + 1 >= v->count)
        return UINT64_MAX;
    uint64_t deadline = first_ns + v->terms->duration_ms * UINT64_C(1000000);
    uint64_t end = first_ns + (at + 1) * (v->terms->interval_ms * UINT64_C(1000000));
    return end < deadline ? end : deadline;
}

/* The first payload byte of all threads is the one whose thread says so first, in *shared. */
static inline uint64_t intervals_first(uint64_t *shared, uint64_t now_ns)
{
    uint64_t none = 0;
    return __atomic_compare_exchange_n(shared, &none, now_ns, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED) ? now_ns : none;
}

/* Index of the interval that this moment falls into. */
static inline uint32_t intervals_at(struct intervals *v, uint64_t *shared_first_ns, uint64_t now_ns)
{
    if (__builtin_expect(now_ns >= v->end_ns, 0)) {
        uint64_t first_ns = intervals_first(shared_first_ns, now_ns);
        while ((v->end_ns = intervals_end(v, first_ns, v->at)) <= now_ns)
            v->at++;
    }
    return v->at;
}

#endif
