/* Many sockets, one thread: told once of each that something has changed about it (epoll, edge-triggered). */
#ifndef CVMPROBE_WATCH_H
#define CVMPROBE_WATCH_H

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/clock.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

#define WATCH_EVENTS 64 /* told of at once */

struct watch {
    int epoll;
    struct epoll_event events[WATCH_EVENTS];
};

/* Returns 0 or -errno. */
static inline int watch_open(struct watch *w)
{
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    return w->epoll < 0 ? -errno : 0;
}

/* Tell of socket `fd` by `index`. Returns 0 or -errno. */
static inline int watch_add(struct watch *w, int fd, uint32_t index)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = index};
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

/* Tell of socket `fd` by `index` for as long as it has something to receive. Returns 0 or -errno. */
static inline int watch_input(struct watch *w, int fd, uint32_t index)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = index};
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

/* Sleep until something changes or until_ns; until_ns <= now_ns only looks. Returns how many events there are.
 * A kernel before 5.11 sleeps for whole milliseconds, never too long. */
static inline int watch_wait(struct watch *w, uint64_t now_ns, uint64_t until_ns)
{
    uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec left = clock_timespec(left_ns);
    int n = -1;
    if (until_ns == UINT64_MAX)
        n = epoll_wait(w->epoll, w->events, WATCH_EVENTS, -1);
    else if (left_ns)
        n = (int)syscall(SYS_epoll_pwait2, w->epoll, w->events, WATCH_EVENTS, &left, NULL, 0);
    if (!left_ns || (n < 0 && errno == ENOSYS))
        n = epoll_wait(w->epoll, w->events, WATCH_EVENTS, (int)(left_ns / 1000000));
    return n > 0 ? n : 0;
}

static inline uint32_t watch_index(const struct watch *w, int event)
{
    return w->events[event].data.u32;
}

/* Whether the peer will send no more after what is there. */
static inline int watch_ends(const struct watch *w, int event)
{
    return (w->events[event].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
}

static inline void watch_close(struct watch *w)
{
    if (w->epoll >= 0)
        close(w->epoll);
    w->epoll = -1;
}

#endif
