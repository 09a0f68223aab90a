/* The two clocks, in ns: CLOCK_MONOTONIC for everything measured, CLOCK_REALTIME only to name a moment. */
#ifndef CVMPROBE_CLOCK_H
#define CVMPROBE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_of_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_now_ns(void)
{
    return clock_of_ns(CLOCK_MONOTONIC);
}

static inline uint64_t clock_real_ns(void)
{
    return clock_of_ns(CLOCK_REALTIME);
}

static inline struct timespec clock_timespec(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    return t;
}

/* Sleep until the monotonic clock shows at_ns; a signal may end it early. */
static inline void clock_sleep_until(uint64_t at_ns)
{
    struct timespec t = clock_timespec(at_ns);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

#endif
