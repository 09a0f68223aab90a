/* What the terms ask of a data socket: set before it connects or once it is accepted, and read back.
 *
 * What a kernel refuses, or grants less of, is kept by name; unlike buffers and names, an MSS above the path's is no
 * refusal: the MSS in use is the smallest of the path, of both ends, and of what was asked. One thing cannot be undone:
 * where the system's congestion control is bbr, Linux goes on pacing an accepted socket under any other.
 */
#ifndef CVMPROBE_SOCKET_OPTIONS_H
#define CVMPROBE_SOCKET_OPTIONS_H

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "session/session.h"

enum socket_option {
    OPTION_NONE,
    OPTION_DSCP,
    OPTION_SNDBUF,
    OPTION_RCVBUF,
    OPTION_MSS,
    OPTION_RATE,
    OPTION_CONGESTION,
};

/* What sort of data socket it is; the MSS goes into the SYN, so it is asked of what connects, and binds both ends. */
enum options_for { OPTIONS_CONNECTING, OPTIONS_ACCEPTED, OPTIONS_UDP };

struct refusal {
    uint32_t option; /* OPTION_NONE: nothing was refused */
    uint32_t error;  /* positive errno */
};

static inline int option_set(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value) ? errno : 0;
}

/* An IPv6 socket may carry IPv4, so both are tried; one of them has to do. */
static inline int option_set_dscp(int fd, uint8_t dscp)
{
    int error = option_set(fd, IPPROTO_IP, IP_TOS, dscp << 2);
    int error6 = option_set(fd, IPPROTO_IPV6, IPV6_TCLASS, dscp << 2);
    return error && error6 ? error : 0;
}

/* The kernel doubles a buffer for its own use, and silently gives no more than net.core.{w,r}mem_max. */
static inline int option_set_buffer(int fd, int name, uint32_t bytes)
{
    int granted = 0, error = option_set(fd, SOL_SOCKET, name, (int)bytes);
    socklen_t size = sizeof granted;
    if (!error && getsockopt(fd, SOL_SOCKET, name, &granted, &size))
        error = errno;
    return !error && (granted < 0 || (uint32_t)granted < bytes) ? ENOBUFS : error;
}

static inline int option_set_rate(int fd, uint64_t bytes_per_s)
{
    uint64_t granted = 0;
    socklen_t size = sizeof granted;
    if (setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &bytes_per_s, sizeof bytes_per_s) ||
        getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &granted, &size))
        return errno;
    return granted == bytes_per_s ? 0 : ERANGE;
}

static inline int option_set_congestion(int fd, const char *name)
{
    char found[SESSION_CONGESTION_BYTES] = "";
    socklen_t size = sizeof found;
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) ||
        getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, found, &size))
        return errno;
    return strncmp(found, name, sizeof found) ? ENOENT : 0;
}

static inline int option_refused(struct refusal *refused, enum socket_option option, int error)
{
    *refused = (struct refusal){option, (uint32_t)error};
    return -ENOPROTOOPT;
}

/* Set what the terms ask; datagrams are paced by who sends them. Returns 0, or -ENOPROTOOPT with what was refused. */
static inline int options_apply(int fd, const struct session_terms *t, enum options_for what, struct refusal *refused)
{
    int error;
    if (t->dscp && (error = option_set_dscp(fd, t->dscp)))
        return option_refused(refused, OPTION_DSCP, error);
    if (t->sndbuf_bytes && (error = option_set_buffer(fd, SO_SNDBUF, t->sndbuf_bytes)))
        return option_refused(refused, OPTION_SNDBUF, error);
    if (t->rcvbuf_bytes && (error = option_set_buffer(fd, SO_RCVBUF, t->rcvbuf_bytes)))
        return option_refused(refused, OPTION_RCVBUF, error);
    if (what == OPTIONS_UDP)
        return 0;
    if (t->mss && what == OPTIONS_CONNECTING && (error = option_set(fd, IPPROTO_TCP, TCP_MAXSEG, (int)t->mss)))
        return option_refused(refused, OPTION_MSS, error);
    if (t->rate_bytes_per_s && (error = option_set_rate(fd, t->rate_bytes_per_s)))
        return option_refused(refused, OPTION_RATE, error);
    if (t->congestion[0] && (error = option_set_congestion(fd, t->congestion)))
        return option_refused(refused, OPTION_CONGESTION, error);
    return 0;
}

#endif
