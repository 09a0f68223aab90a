/* When each operation should start: at once (closed loop), at a constant rate, or as a Poisson process.
 *
 * Deadlines are absolute from the first start, so an operation that runs late delays none after it on paper, and keeps
 * the time it was meant to start at: its latency includes the wait it caused (no coordinated omission).
 */
#ifndef CVMPROBE_PACE_H
#define CVMPROBE_PACE_H

#include <math.h>
#include <stdint.h>

#include "engine/clock.h"

#define PACE_SLICE_NS UINT64_C(50000000) /* longest sleep without a look at `running` */
#define PACE_LATE_NS UINT64_C(1000000)   /* an operation that starts later than this counts as late */

struct pace {
    double period_ns; /* mean gap; 0: closed loop */
    double offset_ns; /* of the next start from start_ns; exact to the ns for 104 days */
    uint64_t start_ns;
    uint64_t spin_ns; /* of the end of each wait; 0: sleep all of it */
    uint64_t random;
    uint64_t issued;
    int poisson;
};

static inline void pace_init(struct pace *p, double rate_per_s, int poisson, uint64_t seed, uint64_t spin_ns)
{
    *p = (struct pace){.period_ns = rate_per_s > 0 ? 1e9 / rate_per_s : 0,
                       .spin_ns = spin_ns, .random = seed, .poisson = poisson};
}

/* The first operation is meant for start_ns (Poisson: one gap later). */
static inline void pace_start(struct pace *p, uint64_t start_ns)
{
    p->start_ns = start_ns;
}

/* splitmix64: every seed gives a full-period sequence of its own. */
static inline uint64_t pace_random(struct pace *p)
{
    uint64_t z = (p->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Intended start of the next operation, ns; does not wait. */
static inline uint64_t pace_next(struct pace *p)
{
    if (p->poisson)
        p->offset_ns -= log(((double)(pace_random(p) >> 11) + 0.5) * 0x1p-53) * p->period_ns;
    else
        p->offset_ns = (double)p->issued++ * p->period_ns;
    return p->start_ns + (uint64_t)p->offset_ns;
}

/* How many operations of a constant rate are meant to start before end_ns, from the first on. */
static inline uint64_t pace_due(const struct pace *p, uint64_t end_ns)
{
    double span_ns = end_ns > p->start_ns ? (double)(end_ns - p->start_ns) : 0;
    uint64_t due = (uint64_t)(span_ns / p->period_ns);
    while ((double)due * p->period_ns < span_ns)
        due++;
    return due;
}

/* Sleep towards until_ns, for a slice at the most, but for the end that is to be spun. */
static inline void pace_sleep(const struct pace *p, uint64_t now_ns, uint64_t until_ns)
{
    uint64_t left = until_ns > now_ns ? until_ns - now_ns : 0;
    if (left <= p->spin_ns)
        return;
    uint64_t sleep = left - p->spin_ns;
    clock_sleep_until(now_ns + (sleep < PACE_SLICE_NS ? sleep : PACE_SLICE_NS));
}

/* Wait for the next operation's intended start and return it (closed loop: now, at once).
 * Returns 0 when *running fell or the deadline came first. */
static inline uint64_t pace_wait(struct pace *p, const uint32_t *running, uint64_t deadline_ns)
{
    uint64_t intended = p->period_ns > 0 ? pace_next(p) : 0;
    uint64_t until = intended < deadline_ns ? intended : deadline_ns;
    for (;;) {
        uint64_t now = clock_now_ns();
        if (!__atomic_load_n(running, __ATOMIC_RELAXED) || now >= deadline_ns)
            return 0;
        if (now >= until)
            return intended ? intended : now;
        pace_sleep(p, now, until);
    }
}

#endif
