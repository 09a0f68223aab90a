/* What the kernel says of one TCP connection (TCP_INFO), asked only by the thread that owns the socket. */
#ifndef CVMPROBE_TCP_PATH_H
#define CVMPROBE_TCP_PATH_H

#include <errno.h>
#include <linux/tcp.h> /* not netinet/tcp.h, whose tcp_info is shorter */
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "engine/clock.h"
#include "engine/counters.h"
#include "socket/silence.h"

#define TCP_PATH_EVERY_NS UINT64_C(100000000)
#define TCP_PATH_NAME_BYTES 17 /* of a congestion control: the kernel's 16 and an end */
#define TCP_PATH_NO_MIN_RTT UINT32_MAX /* the kernel has none yet */

/* Written by the owner, read by any; COUNTER_UNKNOWN where this kernel does not tell. The first five only grow. */
struct tcp_path {
    uint64_t next_ns;
    uint64_t retransmitted_segments;
    uint64_t reordering_events;
    uint64_t busy_ns;           /* with data under way or waiting to be sent */
    uint64_t rwnd_limited_ns;   /* of it, for want of room at the receiver */
    uint64_t sndbuf_limited_ns; /* of it, for want of room in the send buffer */
    uint64_t rtt_ns;            /* smoothed */
    uint64_t min_rtt_ns;
    uint64_t cwnd_segments;
    uint64_t delivery_bytes_per_s;
    uint64_t delivery_app_limited; /* 1: the rate was last measured while the sender had too little to send */
    uint64_t path_mtu_bytes;
    uint64_t mss_bytes;
    uint64_t reordering_segments; /* the farthest, as the kernel supposes; 3 until it saw more */
    struct silence silence;
};

static inline void tcp_path_init(struct tcp_path *p)
{
    memset(p, 0xff, sizeof *p);
    p->next_ns = 0;
    p->silence = (struct silence){0};
}

#define TCP_PATH_KNOWS(field) (size >= offsetof(struct tcp_info, field) + sizeof info.field)
#define TCP_PATH_KEEP(counter, field, unit) \
    if (TCP_PATH_KNOWS(field)) \
    counter_set(&p->counter, info.field * UINT64_C(unit))

/* Returns the connection's state (enum of linux/tcp.h), or -errno. */
static inline int tcp_path_read(struct tcp_path *p, int fd, uint64_t now_ns)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    p->next_ns = now_ns + TCP_PATH_EVERY_NS;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size))
        return -errno;
    TCP_PATH_KEEP(retransmitted_segments, tcpi_total_retrans, 1);
    TCP_PATH_KEEP(reordering_events, tcpi_reord_seen, 1);
    TCP_PATH_KEEP(busy_ns, tcpi_busy_time, 1000);
    TCP_PATH_KEEP(rwnd_limited_ns, tcpi_rwnd_limited, 1000);
    TCP_PATH_KEEP(sndbuf_limited_ns, tcpi_sndbuf_limited, 1000);
    TCP_PATH_KEEP(cwnd_segments, tcpi_snd_cwnd, 1);
    TCP_PATH_KEEP(path_mtu_bytes, tcpi_pmtu, 1);
    TCP_PATH_KEEP(mss_bytes, tcpi_snd_mss, 1);
    TCP_PATH_KEEP(reordering_segments, tcpi_reordering, 1);
    if (info.tcpi_rtt)
        TCP_PATH_KEEP(rtt_ns, tcpi_rtt, 1000);
    if (info.tcpi_min_rtt != TCP_PATH_NO_MIN_RTT)
        TCP_PATH_KEEP(min_rtt_ns, tcpi_min_rtt, 1000);
    if (TCP_PATH_KNOWS(tcpi_delivery_rate) && info.tcpi_delivery_rate) {
        counter_set(&p->delivery_bytes_per_s, info.tcpi_delivery_rate);
        counter_set(&p->delivery_app_limited, info.tcpi_delivery_rate_app_limited);
    }
    silence_look(&p->silence, &info, size, now_ns);
    return info.tcpi_state;
}

/* Read it again when it is time. */
static inline void tcp_path_watch(struct tcp_path *p, int fd, uint64_t now_ns)
{
    if (__builtin_expect(now_ns >= p->next_ns, 0))
        tcp_path_read(p, fd, now_ns);
}

#undef TCP_PATH_KEEP
#undef TCP_PATH_KNOWS

/* Whether a connection in this state still waits for its FIN to be acknowledged, and so for all before it. */
static inline int tcp_path_undrained(int state)
{
    enum { FIN_WAIT1 = 4, CLOSING = 11 }; /* of the kernel's tcp_states.h, which is not for programs */
    return state == FIN_WAIT1 || state == CLOSING;
}

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
