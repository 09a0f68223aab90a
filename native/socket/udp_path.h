/* What the kernel says of one connected UDP socket: the path's MTU, the errors that came back, what was dropped here.
 *
 * Asked by the thread that owns the socket, every 100 ms; COUNTER_UNKNOWN where this kernel does not tell.
 */
#ifndef CVMPROBE_UDP_PATH_H
#define CVMPROBE_UDP_PATH_H

#include <errno.h>
#include <linux/errqueue.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "engine/clock.h"
#include "engine/counters.h"

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

#define UDP_PATH_EVERY_NS UINT64_C(100000000)

struct udp_path {
    int fd;
    uint32_t overhead_bytes; /* of IP and UDP headers */
    uint64_t next_ns;
    uint64_t mtu_bytes;
    uint64_t icmp_errors; /* that the path sent back */
    uint64_t icmp_error;  /* the last of them, as an errno; 0: there was none */
    uint64_t dropped;     /* packets that found no room in this socket, since it is there */
};

static inline int udp_path_speaks_ipv6(int fd)
{
    struct sockaddr_in6 peer;
    socklen_t size = sizeof peer;
    return !getpeername(fd, (struct sockaddr *)&peer, &size) && peer.sin6_family == AF_INET6 &&
           !IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr);
}

/* A socket of either family may carry IPv4, so an option is set for both; what does not apply fails harmlessly. */
static inline void udp_path_option(int fd, int ipv4, int ipv6, int value)
{
    setsockopt(fd, IPPROTO_IP, ipv4, &value, sizeof value);
    setsockopt(fd, IPPROTO_IPV6, ipv6, &value, sizeof value);
}

static inline uint64_t udp_path_mtu(int fd)
{
    int mtu = 0;
    socklen_t size = sizeof mtu;
    if (getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &size) && getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &size))
        return COUNTER_UNKNOWN;
    return mtu > 0 ? (uint64_t)mtu : COUNTER_UNKNOWN;
}

/* The socket's own counter, of 32 bits: of all drops, also of those after the last packet that came through. */
static inline uint64_t udp_path_dropped(int fd)
{
    uint32_t info[SK_MEMINFO_VARS];
    socklen_t size = sizeof info;
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size) || size < (SK_MEMINFO_DROPS + 1) * sizeof *info)
        return COUNTER_UNKNOWN;
    return info[SK_MEMINFO_DROPS];
}

static inline void udp_path_read(struct udp_path *p, uint64_t now_ns)
{
    p->next_ns = now_ns + UDP_PATH_EVERY_NS;
    counter_set(&p->mtu_bytes, udp_path_mtu(p->fd));
    counter_set(&p->dropped, udp_path_dropped(p->fd));
}

/* Read it again when it is time. */
static inline void udp_path_watch(struct udp_path *p, uint64_t now_ns)
{
    if (__builtin_expect(now_ns >= p->next_ns, 0))
        udp_path_read(p, now_ns);
}

/* Whether a datagram of this payload goes as one packet, as far as the path is known. */
static inline int udp_path_fits(const struct udp_path *p, uint32_t size)
{
    uint64_t mtu = counter_read(&p->mtu_bytes);
    return mtu == COUNTER_UNKNOWN || size + p->overhead_bytes <= mtu;
}

/* From now on errors come back to this socket, and what fits the path goes with DF; a larger datagram the kernel may
 * cut into fragments. */
static inline void udp_path_open(struct udp_path *p, int fd, uint32_t size)
{
    int ipv6 = udp_path_speaks_ipv6(fd);
    *p = (struct udp_path){.fd = fd, .overhead_bytes = ipv6 ? 48 : 28};
    udp_path_option(fd, IP_RECVERR, IPV6_RECVERR, 1);
    udp_path_read(p, clock_now_ns());
    if (udp_path_fits(p, size))
        udp_path_option(fd, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO);
}

/* The errno of an entry of the error queue that came from the path; 0: it came from this kernel. */
static inline uint32_t udp_path_icmp_error(struct msghdr *message)
{
    struct sock_extended_err error;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (!(c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR) &&
            !(c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR))
            continue;
        memcpy(&error, CMSG_DATA(c), sizeof error);
        return error.ee_origin == SO_EE_ORIGIN_ICMP || error.ee_origin == SO_EE_ORIGIN_ICMP6 ? error.ee_errno : 0;
    }
    return 0;
}

/* Count what came back since the last time, and make room for more. */
static inline void udp_path_collect_errors(struct udp_path *p)
{
    for (;;) {
        uint64_t control[64];
        struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
        if (recvmsg(p->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return;
        uint32_t error = udp_path_icmp_error(&message);
        if (!error)
            continue;
        counter_add(&p->icmp_errors, 1);
        counter_set(&p->icmp_error, error);
    }
}

#endif
