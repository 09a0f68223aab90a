/* What the kernel says of one TCP connection (TCP_INFO), asked only by the thread that owns the socket. */
#ifndef CVMPROBE_TCP_PATH_H
#define CVMPROBE_TCP_PATH_H

#include <errno.h>
#include <linux/tcp.h> /* not netinet/tcp.h, whose tcp_info is shorter */
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "clock.h"
#include "counters.h"

#define TCP_PATH_EVERY_NS UINT64_C(100000000)
#define TCP_PATH_NAME_BYTES 17 /* of a congestion control: the kernel's 16 and an end */
#define TCP_PATH_NO_MIN_RTT UINT32_MAX /* the kernel has none yet */

/* Written by the owner, read by any; COUNTER_UNKNOWN where this kernel does not tell. */
struct tcp_path {
    uint64_t next_ns;
    uint64_t retransmitted_segments;
    uint64_t rtt_ns; /* smoothed */
    uint64_t min_rtt_ns;
    uint64_t cwnd_segments;
    uint64_t delivery_bytes_per_s;
};

static inline void tcp_path_init(struct tcp_path *p)
{
    *p = (struct tcp_path){0, COUNTER_UNKNOWN, COUNTER_UNKNOWN, COUNTER_UNKNOWN, COUNTER_UNKNOWN, COUNTER_UNKNOWN};
}

#define TCP_PATH_KNOWS(field) (size >= offsetof(struct tcp_info, field) + sizeof info.field)

static inline void tcp_path_read(struct tcp_path *p, int fd, uint64_t now_ns)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    p->next_ns = now_ns + TCP_PATH_EVERY_NS;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size))
        return;
    if (TCP_PATH_KNOWS(tcpi_total_retrans))
        counter_set(&p->retransmitted_segments, info.tcpi_total_retrans);
    if (TCP_PATH_KNOWS(tcpi_rtt) && info.tcpi_rtt)
        counter_set(&p->rtt_ns, info.tcpi_rtt * UINT64_C(1000));
    if (TCP_PATH_KNOWS(tcpi_snd_cwnd))
        counter_set(&p->cwnd_segments, info.tcpi_snd_cwnd);
    if (TCP_PATH_KNOWS(tcpi_min_rtt) && info.tcpi_min_rtt != TCP_PATH_NO_MIN_RTT)
        counter_set(&p->min_rtt_ns, info.tcpi_min_rtt * UINT64_C(1000));
    if (TCP_PATH_KNOWS(tcpi_delivery_rate) && info.tcpi_delivery_rate)
        counter_set(&p->delivery_bytes_per_s, info.tcpi_delivery_rate);
}

/* Read it again when it is time. */
static inline void tcp_path_watch(struct tcp_path *p, int fd, uint64_t now_ns)
{
    if (__builtin_expect(now_ns >= p->next_ns, 0))
        tcp_path_read(p, fd, now_ns);
}

#undef TCP_PATH_KNOWS

/* Name of the congestion control in use. Returns 0 or -errno. */
static inline int tcp_congestion_control(int fd, char name[TCP_PATH_NAME_BYTES])
{
    socklen_t size = TCP_PATH_NAME_BYTES - 1;
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size))
        return -errno;
    name[size] = 0;
    return 0;
}

#endif
