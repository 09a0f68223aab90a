/* A peer that lost its power or its network says nothing; without this a session with it would stay for hours. */
#ifndef CVMPROBE_KEEPALIVE_H
#define CVMPROBE_KEEPALIVE_H

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* Let the kernel end a connection whose peer has answered nothing, probes included, for 20 s. */
static inline void keepalive_set(int fd)
{
    static const int on = 1, idle_s = 10, every_s = 2, tries = 5, unanswered_ms = 20000;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof tries);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

#endif
