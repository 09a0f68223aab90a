/* One CPUID leaf; other architectures have none. */
#ifndef CVMPROBE_CPUID_LEAF_H
#define CVMPROBE_CPUID_LEAF_H

#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>

static inline int cpuid_leaf(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
    return 1;
}
#else
static inline int cpuid_leaf(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    (void)leaf, (void)subleaf, (void)out;
    return 0;
}
#endif

/* Whether a hypervisor says that it is there (leaf 1, ECX[31]). */
static inline int cpuid_of_a_vm(void)
{
    uint32_t out[4];
    return cpuid_leaf(1, 0, out) && out[2] >> 31;
}

#endif
