/* The serving side of tcp_rr: one thread answers every request of a session, on each connection in order.
 *
 *     block   one connection: recv sleeps
 *     spin    nothing sleeps, unless nobody has asked for 100 ms
 *     epoll   epoll_wait sleeps; so it does where several connections are to be waited for by block
 *
 * Requests that came in together are received together; each is answered by a send of its own.
 */
#ifndef CVMPROBE_TCP_RR_SERVE_H
#define CVMPROBE_TCP_RR_SERVE_H

#include "session/service.h"
#include "socket/tcp_path.h"
#include "socket/watch.h"

#define TCP_RR_LOOKS 256 /* tries of a spinning thread between two looks at the clock */
#define TCP_RR_IDLE_NS UINT64_C(100000000)
#define TCP_RR_MORE 1 /* there may be more to receive: do not wait */

struct tcp_rr_line {
    uint64_t received; /* of a request that is not whole yet */
    uint64_t owed;     /* bytes of responses not sent yet */
    int over;          /* the initiator's FIN was here */
};

struct tcp_rr_serving {
    struct service *v; /* the first of all */
    struct tcp_rr_line *lines;
    uint32_t open;
    uint32_t looks;
    uint64_t idle_since_ns; /* 0: somebody asked */
    struct watch watch;
};

/* Count an answered request. The clock is read for the first one only: the initiator is waiting for the next.
 * Returns 0, or -EDQUOT past the cap. */
static inline int tcp_rr_count(struct service *v, uint64_t size)
{
    if (__builtin_expect(!v->counts[RESULT_OPERATIONS], 0)) {
        int r = service_count(v, size, 1, clock_now_ns());
        v->counts[RESULT_LAST_NS] = RESULT_UNKNOWN;
        return r;
    }
    v->counts[RESULT_BYTES] += size;
    v->counts[RESULT_OPERATIONS]++;
    return service_charge(v, size);
}

/* Send what is owed, one response at a time. Returns 0, or -errno (-EAGAIN: the rest when there is room). */
static inline int tcp_rr_respond(struct tcp_rr_serving *g, uint32_t i, int flags)
{
    struct service *v = g->v;
    struct tcp_rr_line *l = &g->lines[i];
    uint64_t whole = (uint64_t)v->terms->request_bytes + v->terms->response_bytes;
    while (l->owed) {
        uint64_t rest = (l->owed - 1) % v->terms->response_bytes + 1;
        ssize_t n = send(v[i].fd, v->buffer, rest, MSG_NOSIGNAL | flags);
        if (n < 0)
            return -errno;
        l->owed -= (uint64_t)n;
        if ((uint64_t)n == rest && tcp_rr_count(v, whole))
            return -EPROTO;
    }
    return 0;
}

/* Receive once and answer. Returns TCP_RR_MORE, 0 when what was there is taken, or -errno; FIN ends the line. */
static inline int tcp_rr_answer(struct tcp_rr_serving *g, uint32_t i, int flags)
{
    struct service *v = g->v;
    struct tcp_rr_line *l = &g->lines[i];
    size_t room = service_buffer_bytes(v->terms);
    int r = tcp_rr_respond(g, i, flags);
    if (r < 0)
        return r;
    ssize_t n = recv(v[i].fd, v->buffer, room, flags);
    if (n < 0)
        return -errno;
    if (n == 0) {
        l->over = 1;
        g->open--;
        return l->received || !service_running(v) ? -EPROTO : 0;
    }
    l->received += (uint64_t)n;
    l->owed = l->received / v->terms->request_bytes * v->terms->response_bytes;
    l->received %= v->terms->request_bytes;
    r = tcp_rr_respond(g, i, flags);
    return r < 0 ? r : (size_t)n == room ? TCP_RR_MORE : 0;
}

/* Whether a spinning thread heard nothing for so long that it should sleep; the clock is read now and then. */
static inline int tcp_rr_idle(struct tcp_rr_serving *g)
{
    if (++g->looks % TCP_RR_LOOKS)
        return 0;
    uint64_t now_ns = clock_now_ns();
    if (!g->idle_since_ns)
        g->idle_since_ns = now_ns;
    return now_ns - g->idle_since_ns > TCP_RR_IDLE_NS;
}

static inline void tcp_rr_asked(struct tcp_rr_serving *g)
{
    g->looks = 0;
    g->idle_since_ns = 0;
}

static inline int tcp_rr_serve_one(struct tcp_rr_serving *g)
{
    int spin = g->v->terms->wait == WAIT_SPIN, flags = spin ? MSG_DONTWAIT : 0;
    while (g->open && service_running(g->v)) {
        int r = tcp_rr_answer(g, 0, flags);
        if (r >= 0) {
            tcp_rr_asked(g);
            flags = spin ? MSG_DONTWAIT : 0;
        } else if (r != -EAGAIN && r != -EINTR) {
            return r;
        } else if (spin) {
            flags = tcp_rr_idle(g) ? 0 : MSG_DONTWAIT;
        }
    }
    return g->open ? -EINTR : 0;
}

/* Answer all that a line has, as its event tells. Returns 0 or -errno. */
static inline int tcp_rr_serve_line(struct tcp_rr_serving *g, uint32_t i, int ends)
{
    int r = 0;
    do
        r = g->lines[i].over ? 0 : tcp_rr_answer(g, i, MSG_DONTWAIT);
    while (r == TCP_RR_MORE || (r == 0 && ends && !g->lines[i].over));
    return r == -EAGAIN || r == -EINTR ? 0 : r;
}

static inline int tcp_rr_serve_all(struct tcp_rr_serving *g)
{
    int spin = g->v->terms->wait == WAIT_SPIN;
    while (g->open && service_running(g->v)) {
        int n = watch_wait(&g->watch, 0, spin && !tcp_rr_idle(g) ? 0 : UINT64_MAX);
        for (int i = 0; i < n; i++) {
            int r = tcp_rr_serve_line(g, watch_index(&g->watch, i), watch_ends(&g->watch, i));
            if (r < 0)
                return r;
        }
        if (n)
            tcp_rr_asked(g);
    }
    return g->open ? -EINTR : 0;
}

static inline int tcp_rr_watch_all(struct tcp_rr_serving *g)
{
    int r = watch_open(&g->watch);
    for (uint32_t i = 0; !r && i < g->v->terms->sockets; i++)
        r = watch_add(&g->watch, g->v[i].fd, i);
    return r;
}

/* Of our own side of all connections; stays unknown where the kernel does not tell of one. */
static inline void tcp_rr_count_retransmitted(struct service *v)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < v->terms->sockets && sum != COUNTER_UNKNOWN; i++) {
        struct tcp_path path;
        tcp_path_init(&path);
        tcp_path_read(&path, v[i].fd, 0);
        sum = path.retransmitted_segments == COUNTER_UNKNOWN ? COUNTER_UNKNOWN : sum + path.retransmitted_segments;
    }
    v->counts[RESULT_RETRANSMITTED_SEGMENTS] = sum;
}

/* Charge what has moved of transactions that never came to their end: the cap is one of bytes. */
static inline void tcp_rr_charge_rest(const struct tcp_rr_serving *g)
{
    uint64_t request = g->v->terms->request_bytes, response = g->v->terms->response_bytes, rest = 0;
    for (uint32_t i = 0; g->lines && i < g->v->terms->sockets; i++) {
        const struct tcp_rr_line *l = &g->lines[i];
        rest += l->received + (l->owed + response - 1) / response * (request + response) - l->owed;
    }
    service_charge(g->v, rest);
}

/* Answer requests on all connections until FIN on each. Returns 0 for that, else -errno. */
static inline int tcp_rr_serve(struct service *v)
{
    struct tcp_rr_serving g = {.v = v, .open = v->terms->sockets, .watch.epoll = -1};
    g.lines = (struct tcp_rr_line *)calloc(g.open, sizeof *g.lines);
    int many = v->terms->sockets > 1 || v->terms->wait == WAIT_EPOLL;
    int r = !g.lines ? -ENOMEM : many ? tcp_rr_watch_all(&g) : 0;
    if (!r)
        r = many ? tcp_rr_serve_all(&g) : tcp_rr_serve_one(&g);
    tcp_rr_charge_rest(&g);
    tcp_rr_count_retransmitted(v);
    watch_close(&g.watch);
    free(g.lines);
    return r;
}

#endif
