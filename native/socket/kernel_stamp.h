/* When the kernel had what a receive call returns: CLOCK_REALTIME, taken as the packet came in (SO_TIMESTAMPNS). */
#ifndef CVMPROBE_KERNEL_STAMP_H
#define CVMPROBE_KERNEL_STAMP_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* Ask for stamps on this socket. Returns 0 or -errno. */
static inline int kernel_stamp_ask(int fd)
{
    static const int on = 1;
    return setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) ? -errno : 0;
}

/* recv, and in *stamp_ns when its last byte came in; 0: the kernel does not say. */
static inline ssize_t kernel_stamp_recv(int fd, void *data, size_t size, int flags, uint64_t *stamp_ns)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(struct timespec))];
    } control;
    struct iovec to = {.iov_base = data, .iov_len = size};
    struct msghdr m = {.msg_iov = &to, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, flags);
    *stamp_ns = 0;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
        struct timespec t;
        memcpy(&t, CMSG_DATA(c), sizeof t);
        *stamp_ns = (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
    }
    return n;
}

#endif
