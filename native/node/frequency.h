/* How fast the kernel says that the processor of the calling thread runs now. */
#ifndef CVMPROBE_FREQUENCY_H
#define CVMPROBE_FREQUENCY_H

#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* 0: it does not tell. Most hypervisors hide it; what /proc/cpuinfo shows there is the rate of the time stamp counter. */
static inline uint64_t frequency_khz(void)
{
    char text[80];
    snprintf(text, sizeof text, "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", sched_getcpu());
    int fd = open(text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return strtoull(text, NULL, 10);
}

#endif
