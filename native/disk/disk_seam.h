/* Where a test build lets a test replace the result of a completed operation; in a release there is nothing here. */
#ifndef CVMPROBE_DISK_SEAM_H
#define CVMPROBE_DISK_SEAM_H

#include <stdint.h>

#ifdef CVMPROBE_SEAMS
/* A test preloads a library with this function; without one the kernel's result stands. */
__attribute__((weak)) int32_t cvmprobe_disk_result(uint32_t operation, int32_t result);

static inline int32_t disk_seam_result(uint32_t operation, int32_t result)
{
    return cvmprobe_disk_result ? cvmprobe_disk_result(operation, result) : result;
}
#else
static inline int32_t disk_seam_result(uint32_t operation, int32_t result)
{
    (void)operation;
    return result;
}
#endif

#endif
