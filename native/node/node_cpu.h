/* What all CPUs of this node have done since boot, as the first line of /proc/stat tells it, in ticks of its clock. */
#ifndef CVMPROBE_NODE_CPU_H
#define CVMPROBE_NODE_CPU_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/clock.h"

struct node_cpu {
    uint64_t at_ns; /* CLOCK_MONOTONIC; 0: not read */
    uint64_t busy_ns; /* user, nice, system, irq, softirq, steal: all but idle and waiting for I/O */
    uint64_t irq_ns;
    uint64_t softirq_ns;
};

/* Read it; where that fails, at_ns says so. It takes some 50 us, more where there are many CPUs. */
static inline struct node_cpu node_cpu_read(void)
{
    struct node_cpu none = {0};
    char line[512];
    int fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return none;
    ssize_t n = read(fd, line, sizeof line - 1);
    close(fd);
    line[n > 0 ? n : 0] = 0;
    uint64_t user, nice, system, idle, iowait, irq, softirq, steal;
    if (sscanf(line, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
               &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal) != 8)
        return none;
    uint64_t tick_ns = UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK);
    return (struct node_cpu){.at_ns = clock_now_ns(),
                             .busy_ns = (user + nice + system + irq + softirq + steal) * tick_ns,
                             .irq_ns = irq * tick_ns,
                             .softirq_ns = softirq * tick_ns};
}

#endif
