/* The asking side of one connection: requests under way, oldest first, and the slots that let one more start.
 *
 *     begin ── to_send ── on its way ── received ── end        in this order for all, so the oldest is answered next
 */
#ifndef CVMPROBE_TCP_RR_LINE_H
#define CVMPROBE_TCP_RR_LINE_H

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "socket/tcp_path.h"

#define TCP_RR_UNANSWERED_NS UINT64_C(1000000000) /* a request that takes longer is a timeout, counted once */
#define TCP_RR_ROOM_MS 50                         /* longest wait for room in the sending socket */

struct rr_start {
    uint64_t intended_ns;
    uint64_t began_ns;
};

struct rr_line {
    int fd;
    uint32_t index;
    uint32_t depth;
    uint32_t first; /* of `starts`: the request that is answered next */
    uint32_t in_flight;
    uint32_t overdue;      /* of those in flight: counted as timeouts */
    uint64_t to_send;      /* bytes of the last requests that the kernel had no room for */
    uint64_t received;     /* bytes of the response under way */
    struct rr_start *starts; /* as many as the depth */
    struct tcp_path path;
};

/* When the oldest request under way began; 0: there is none. */
static inline uint64_t rr_line_waits_since(const struct rr_line *l)
{
    return l->in_flight ? l->starts[l->first].began_ns : 0;
}

/* One more request of so many bytes is under way; it still has to be sent. */
static inline void rr_line_begin(struct rr_line *l, uint64_t intended_ns, uint64_t began_ns, uint64_t bytes)
{
    uint32_t last = l->first + l->in_flight++;
    l->starts[last < l->depth ? last : last - l->depth] = (struct rr_start){intended_ns, began_ns};
    l->to_send += bytes;
}

/* Send what is to be sent, as far as there is room; each request is a send of its own. Returns 0 or -errno. */
static inline int rr_line_send(struct rr_line *l, const void *request, uint64_t bytes)
{
    while (l->to_send) {
        uint64_t rest = (l->to_send - 1) % bytes + 1;
        ssize_t n = send(l->fd, request, rest, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        l->to_send -= (uint64_t)n;
    }
    return 0;
}

/* Sleep until the kernel takes more, or something comes. */
static inline void rr_line_await_room(const struct rr_line *l)
{
    struct pollfd p = {.fd = l->fd, .events = POLLIN | POLLOUT};
    poll(&p, 1, TCP_RR_ROOM_MS);
}

/* The oldest request is answered at now_ns. Returns its start; *timeouts grows if that took too long. */
static inline struct rr_start rr_line_end(struct rr_line *l, uint64_t now_ns, uint64_t *timeouts)
{
    struct rr_start s = l->starts[l->first];
    if (l->overdue)
        l->overdue--;
    else if (now_ns - s.began_ns >= TCP_RR_UNANSWERED_NS)
        counter_add(timeouts, 1);
    l->first = l->first + 1 < l->depth ? l->first + 1 : 0;
    l->in_flight--;
    return s;
}

/* Count what has not been answered for too long. */
static inline void rr_line_look(struct rr_line *l, uint64_t now_ns, uint64_t *timeouts)
{
    while (l->overdue < l->in_flight &&
           now_ns >= l->starts[(l->first + l->overdue) % l->depth].began_ns + TCP_RR_UNANSWERED_NS) {
        l->overdue++;
        counter_add(timeouts, 1);
    }
}

/* The rights to have one more request under way, by the index of their line, longest free first. */
struct rr_slots {
    uint32_t *lines;
    uint32_t count;
    uint32_t first;
    uint32_t free;
};

static inline uint32_t rr_slots_take(struct rr_slots *s)
{
    uint32_t line = s->lines[s->first];
    s->first = s->first + 1 < s->count ? s->first + 1 : 0;
    s->free--;
    return line;
}

static inline void rr_slots_give(struct rr_slots *s, uint32_t line)
{
    uint32_t last = s->first + s->free++;
    s->lines[last < s->count ? last : last - s->count] = line;
}

/* -- all lines of a session: memory for them, and back -- */

struct rr_lines {
    struct rr_line *line; /* `count` of them */
    uint32_t count;
    struct rr_start *starts;
    struct rr_slots slots;
};

/* Lines without a socket, all slots free: each line's first, then each line's second, and so on. Returns 0 or -ENOMEM. */
static inline int rr_lines_make(struct rr_lines *a, uint32_t count, uint32_t depth)
{
    *a = (struct rr_lines){.count = count, .slots = {.count = count * depth, .free = count * depth}};
    a->line = (struct rr_line *)calloc(count, sizeof *a->line);
    a->starts = (struct rr_start *)calloc(a->slots.count, sizeof *a->starts);
    a->slots.lines = (uint32_t *)calloc(a->slots.count, sizeof *a->slots.lines);
    if (!a->line || !a->starts || !a->slots.lines)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        a->line[i] = (struct rr_line){.fd = -1, .index = i, .depth = depth, .starts = a->starts + i * depth};
        tcp_path_init(&a->line[i].path);
    }
    for (uint32_t i = 0; i < a->slots.count; i++)
        a->slots.lines[i] = i % count;
    return 0;
}

static inline void rr_lines_free(struct rr_lines *a)
{
    free(a->line);
    free(a->starts);
    free(a->slots.lines);
    *a = (struct rr_lines){0};
}

#endif
