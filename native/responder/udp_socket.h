/* The responder's UDP sockets: one that listens, and one for each data socket, all on the same port.
 *
 *     listener   bound ──────────────────────────────────────────────────────────────
 *     data            bound ── connected ── emptied ── replies, serves ── …
 *                       └ takes from ┘ the listener: those openings are lost and come again
 */
#ifndef CVMPROBE_UDP_SOCKET_H
#define CVMPROBE_UDP_SOCKET_H

#include <unistd.h>

#include "session/udp_datagram.h"

#define UDP_STRAYS 4096 /* datagrams of others that a new socket may have caught */

/* Where a datagram came from and which of our addresses it was sent to. */
struct udp_way {
    struct sockaddr_storage peer;
    struct sockaddr_storage own;
    socklen_t bytes; /* of each */
};

/* Let a bound socket be joined by others on its port, and tell where datagrams were sent to. Returns 0 or -errno. */
static inline int udp_listen(int fd, int family)
{
    static const int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on))
        return -errno;
    if (family == AF_INET6)
        return setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) ? -errno : 0;
    return setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on) ? -errno : 0;
}

/* Fill in the own address of a datagram that came to `port` (network order). Returns 0, or -EPROTO if it is not told. */
static inline int udp_own_address(struct udp_way *way, struct msghdr *m, in_port_t port)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo to;
            memcpy(&to, CMSG_DATA(c), sizeof to);
            struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = port, .sin_addr = to.ipi_spec_dst};
            memcpy(&way->own, &own, sizeof own);
            return 0;
        }
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo to;
            memcpy(&to, CMSG_DATA(c), sizeof to);
            struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = to.ipi6_addr};
            own.sin6_scope_id = IN6_IS_ADDR_LINKLOCAL(&to.ipi6_addr) ? to.ipi6_ifindex : 0;
            memcpy(&way->own, &own, sizeof own);
            return 0;
        }
    }
    return -EPROTO;
}

/* Receive one datagram of a listening socket. Returns its size (more than `room`: it was longer) or -errno. */
static inline ssize_t udp_receive(int fd, in_port_t port, void *data, size_t room, struct udp_way *way)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo))];
    } control;
    struct iovec part = {.iov_base = data, .iov_len = room};
    memset(way, 0, sizeof *way);
    struct msghdr m = {.msg_name = &way->peer, .msg_namelen = sizeof way->peer, .msg_iov = &part, .msg_iovlen = 1,
                       .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0)
        return -errno;
    way->bytes = m.msg_namelen;
    int error = udp_own_address(way, &m, port);
    return error ? error : n;
}

/* Answer from the address that was asked, without remembering anything. */
static inline void udp_answer(int fd, const struct udp_way *way, const void *data, size_t size)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } control = {.bytes = {0}};
    struct iovec part = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr m = {.msg_name = (void *)&way->peer, .msg_namelen = way->bytes, .msg_iov = &part, .msg_iovlen = 1,
                       .msg_control = &control};
    struct cmsghdr *c = &control.aligned;
    if (way->own.ss_family == AF_INET6) {
        const struct sockaddr_in6 *own = (const struct sockaddr_in6 *)&way->own;
        struct in6_pktinfo from = {.ipi6_addr = own->sin6_addr, .ipi6_ifindex = own->sin6_scope_id};
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof from), .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_PKTINFO};
        memcpy(CMSG_DATA(c), &from, sizeof from);
        m.msg_controllen = CMSG_SPACE(sizeof from);
    } else {
        struct in_pktinfo from = {.ipi_spec_dst = ((const struct sockaddr_in *)&way->own)->sin_addr};
        *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof from), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO};
        memcpy(CMSG_DATA(c), &from, sizeof from);
        m.msg_controllen = CMSG_SPACE(sizeof from);
    }
    sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Throw away what others sent to this socket before it was connected; its own peer waits for a reply. */
static inline void udp_empty(int fd)
{
    char first;
    for (int i = 0; i < UDP_STRAYS && recv(fd, &first, sizeof first, MSG_DONTWAIT) >= 0; i++)
        ;
}

/* A new blocking data socket between the two addresses. Returns it or -errno. */
static inline int udp_connected(const struct udp_way *way)
{
    static const int on = 1, off = 0;
    int family = way->own.ss_family;
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) ||
        bind(fd, (const struct sockaddr *)&way->own, way->bytes) ||
        connect(fd, (const struct sockaddr *)&way->peer, way->bytes)) {
        int error = -errno;
        close(fd);
        return error;
    }
    udp_empty(fd);
    return fd;
}

/* Turn a data socket to another peer; an error of the one before is forgotten. Returns 0 or -errno. */
static inline int udp_reconnect(int fd, const struct udp_way *way)
{
    int forgotten;
    socklen_t size = sizeof forgotten;
    if (connect(fd, (const struct sockaddr *)&way->peer, way->bytes))
        return -errno;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &forgotten, &size);
    return 0;
}

#endif
