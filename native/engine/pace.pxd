"""pace.h: when each operation should start."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "engine/pace.h" nogil:
    const uint64_t PACE_LATE_NS
    struct pace:
        double period_ns
    void pace_init(pace *p, double rate_per_s, int poisson, uint64_t seed, uint64_t spin_ns)
    uint64_t pace_random(pace *p)
    void pace_start(pace *p, uint64_t start_ns)
    uint64_t pace_next(pace *p)
    void pace_sleep(const pace *p, uint64_t now_ns, uint64_t until_ns)
    uint64_t pace_wait(pace *p, const uint32_t *running, uint64_t deadline_ns)
