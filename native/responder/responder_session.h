/* A session as the responder holds it: its control socket, the services of its data sockets, its end.
 *
 *     control hello ── data hellos, each starts a service ── every service saw the end ── results over control
 *           └────────────── control closed, deadline, cap, error, revoked: cut ──────────────┴── joined, freed
 *
 * A kind that serves all its sockets in one thread has one service, the first, which starts when all sockets are there.
 * The responder's own thread makes, cuts and frees it; the last service to end sends the results. Sockets are closed
 * only after all services have ended: until then cutting means shutting them down, which wakes who is blocked on them.
 */
#ifndef CVMPROBE_RESPONDER_SESSION_H
#define CVMPROBE_RESPONDER_SESSION_H

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/node_cpu.h"
#include "session/service.h"
#include "session/tcp_crr_token.h"

#define SESSION_SETUP_NS UINT64_C(5000000000) /* from the control hello to the last data hello */
#define SESSION_DRAIN_NS UINT64_C(2000000000)
#define SESSION_POLL_MS 50
#define SESSION_LOOK_NS UINT64_C(100000000) /* between two looks at the node while there is no payload yet */

struct admission;

struct session {
    struct tally tally;
    struct admission *admission; /* that it is charged to; NULL: that is gone */
    struct hello control;
    struct session_terms terms;
    struct session_key key;
    service_loop serve;
    struct gate *gate; /* the responder's; open as long as it lives */
    int wake;          /* eventfd of the responder's own thread */
    int fd;            /* the control socket */
    uint64_t setup_until_ns;
    uint64_t deadline_ns;
    uint64_t charged_bytes; /* that its admission knows of */
    uint32_t threads; /* services with a thread: one for each socket, or the first for all */
    uint32_t arrived; /* data sockets */
    uint32_t spawned;
    uint32_t clean;    /* atomic: services that saw the initiator's end */
    uint32_t ended;    /* atomic: services that will not touch the session any more */
    uint32_t complete; /* atomic: the results are sent */
    struct node_cpu armed;    /* of this node when the session began, as looked at last without payload, */
    struct node_cpu looks[2]; /* and one look before that: a service may be reading it */
    uint32_t look;            /* atomic: which is the last */
    struct service *services; /* terms.sockets of them */
    size_t bins_each;         /* session_bins() x SERIES_COUNT */
    uint64_t *bins;           /* bins_each for every socket, and for their sum */
    uint8_t token[TCP_CRR_TOKEN_BYTES]; /* of tcp_crr: what its transactions open with */
};

static inline int session_running(const struct session *s)
{
    return (int)__atomic_load_n(&s->tally.running, __ATOMIC_RELAXED);
}

static inline uint32_t session_threads(const struct session_terms *t, int grouped)
{
    return grouped ? 1 : t->sockets;
}

/* When it is cut, should nothing end it before. */
static inline uint64_t session_end_ns(const struct session *s)
{
    return s->spawned < s->threads && s->setup_until_ns < s->deadline_ns ? s->setup_until_ns : s->deadline_ns;
}

/* End it without results; its services end by themselves. */
static inline void session_cut(struct session *s)
{
    __atomic_store_n(&s->tally.running, 0, __ATOMIC_RELAXED);
    shutdown(s->fd, SHUT_RDWR);
    for (uint32_t i = 0; i < s->terms.sockets; i++)
        shutdown(__atomic_load_n(&s->services[i].fd, __ATOMIC_RELAXED), SHUT_RDWR); /* -1: not there yet */
}

/* The initiator has sent its last datagram: wake the services of a UDP kind to drain what is still under way. */
static inline void session_drain(struct session *s)
{
    __atomic_store_n(&s->tally.ended_ns, clock_now_ns(), __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < s->terms.sockets; i++)
        shutdown(__atomic_load_n(&s->services[i].fd, __ATOMIC_RELAXED), SHUT_RD);
}

/* Something happened on the control socket. It says nothing after its hello; only where FIN cannot come over the data
 * sockets does its own FIN mean that all is sent. Anything else ends the session. */
static inline void session_heard(struct session *s)
{
    char word;
    int may_end = session_kind_is_udp(s->control.kind) && s->arrived == s->terms.sockets && !s->tally.ended_ns;
    if (may_end && recv(s->fd, &word, sizeof word, 0) == 0)
        session_drain(s);
    else
        session_cut(s);
}

/* Write all of it to a socket that does not block, unless the session is cut or `until_ns` passes. */
static inline int session_send(const struct session *s, const void *data, size_t size, uint64_t until_ns)
{
    const uint8_t *from = (const uint8_t *)data;
    while (size) {
        ssize_t n = send(s->fd, from, size, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n > 0) {
            from += n;
            size -= (size_t)n;
            continue;
        }
        if (!session_running(s) || clock_now_ns() >= until_ns)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = s->fd, .events = POLLOUT};
        poll(&p, 1, SESSION_POLL_MS);
    }
    return 0;
}

/* Whether a session that ends by itself has no payload yet: what the node does meanwhile is what it does without us. */
static inline int session_waits(const struct session *s)
{
    return s->terms.duration_ms && session_running(s) && !__atomic_load_n(&s->tally.first_ns, __ATOMIC_RELAXED) &&
           !__atomic_load_n(&s->tally.first_sent_ns, __ATOMIC_RELAXED);
}

static inline int session_wants_look(const struct session *s, uint64_t now_ns)
{
    return session_waits(s) && now_ns >= s->looks[s->look].at_ns + SESSION_LOOK_NS;
}

/* Keep a look at the node, which is newer than the one before. From the responder's own thread. */
static inline void session_look(struct session *s, const struct node_cpu *node)
{
    uint32_t next = !s->look;
    s->looks[next] = *node;
    if (!s->armed.at_ns)
        s->armed = s->looks[next];
    __atomic_store_n(&s->look, next, __ATOMIC_RELEASE);
}

/* What the node did from the last look before the payload until now, and what it would have done without it. */
static inline void session_tell_node(const struct session *s, uint64_t *counts)
{
    struct node_cpu begun = s->looks[__atomic_load_n(&s->look, __ATOMIC_ACQUIRE)], now = node_cpu_read();
    if (!begun.at_ns || !now.at_ns)
        return;
    counts[RESULT_NODE_BUSY_NS] = now.busy_ns - begun.busy_ns;
    counts[RESULT_NODE_IRQ_NS] = now.irq_ns - begun.irq_ns;
    counts[RESULT_NODE_SOFTIRQ_NS] = now.softirq_ns - begun.softirq_ns;
    if (begun.at_ns - s->armed.at_ns >= SESSION_LOOK_NS)
        counts[RESULT_NODE_BASELINE_NS] = (uint64_t)((double)(begun.busy_ns - s->armed.busy_ns) *
                                                     (double)(now.at_ns - begun.at_ns) /
                                                     (double)(begun.at_ns - s->armed.at_ns));
}

/* One more part of a sum or an extreme; a sum with an unknown part is unknown. */
static inline uint64_t session_join(enum session_result what, uint64_t so_far, uint64_t part)
{
    switch (what) {
    case RESULT_LAST_NS: case RESULT_REORDER_EXTENT: case RESULT_JITTER_NS: case RESULT_RTT_NS:
        return so_far == RESULT_UNKNOWN || (part != RESULT_UNKNOWN && part > so_far) ? part : so_far;
    case RESULT_MIN_RTT_NS: case RESULT_PATH_MTU_BYTES: case RESULT_MSS_BYTES:
    case RESULT_SEND_OFFLOAD: case RESULT_RECEIVE_OFFLOAD: /* the same where it is known */
        return part < so_far ? part : so_far; /* unknown is the largest */
    case RESULT_CONGESTION: case RESULT_CONGESTION_REST: /* text, the same for all */
        return so_far;
    default:
        return so_far == RESULT_UNKNOWN || part == RESULT_UNKNOWN ? RESULT_UNKNOWN : so_far + part;
    }
}

/* Add up what the services counted and send it; all of them saw FIN. */
static inline void session_send_results(struct session *s)
{
    uint64_t came_ns = __atomic_load_n(&s->tally.first_ns, __ATOMIC_RELAXED);
    uint64_t first_ns = came_ns ? came_ns : __atomic_load_n(&s->tally.first_sent_ns, __ATOMIC_RELAXED);
    uint64_t *bins = s->bins + s->terms.sockets * s->bins_each;
    struct results r = {.bins = (uint16_t)session_bins(s->control.kind, &s->terms)};
    memcpy(r.counts, s->services[0].counts, sizeof r.counts);
    for (uint32_t i = 0; i < s->threads; i++) {
        for (int what = 0; i && what < RESULT_COUNTS; what++)
            r.counts[what] = session_join((enum session_result)what, r.counts[what], s->services[i].counts[what]);
        for (size_t b = 0; b < s->bins_each; b++)
            bins[b] += s->services[i].bins[b];
    }
    r.counts[RESULT_FIRST_NS] = first_ns ? first_ns : RESULT_UNKNOWN;
    session_tell_node(s, r.counts);
    results_seal(&s->key, &r, &s->control, bins);
    uint64_t until_ns = clock_now_ns() + SESSION_DRAIN_NS;
    if (!session_send(s, &r, sizeof r, until_ns) && !session_send(s, bins, results_bins_bytes(&r), until_ns))
        __atomic_store_n(&s->complete, 1, __ATOMIC_RELAXED);
}

/* The thread of one data socket, or of all. */
static inline void service_run(struct worker *w)
{
    struct service *v = (struct service *)w;
    struct session *s = v->session;
    int r = -ENOMEM;
    size_t size = service_buffer_bytes(&s->terms);
    v->buffer = (uint8_t *)malloc(size);
    if (v->buffer) {
        memset(v->buffer, 0, size);
        r = s->serve(v);
        free(v->buffer);
    }
    if (s->control.kind != KIND_TCP_CRR) /* whose work is done by the responder's own thread, for all together */
        v->counts[RESULT_CPU_NS] = clock_of_ns(CLOCK_THREAD_CPUTIME_ID);
    if (r < 0)
        session_cut(s);
    else if (__atomic_add_fetch(&s->clean, 1, __ATOMIC_ACQ_REL) == s->threads && session_running(s))
        session_send_results(s);
    int wake = s->wake;
    __atomic_add_fetch(&s->ended, 1, __ATOMIC_RELEASE);
    eventfd_write(wake, 1);
}

/* Make a session of a verified control hello; NULL: no memory. Left to fill in: serve, gate, wake, limit, deadline;
 * `grouped`: one service for all sockets. */
static inline struct session *session_new(const struct hello *control, const struct session_terms *terms,
                                          const struct session_key *key, int grouped, int fd, uint64_t now_ns)
{
    size_t bins = session_bins(control->kind, terms);
    size_t bins_each = bins * SERIES_COUNT;
    struct session *s = (struct session *)aligned_alloc(64, sizeof *s);
    struct service *services = (struct service *)aligned_alloc(64, terms->sockets * sizeof *services);
    uint64_t *room = (uint64_t *)calloc((terms->sockets + 1u) * bins_each + 1, sizeof *room);
    if (!s || !services || !room) {
        free(s);
        free(services);
        free(room);
        return NULL;
    }
    *s = (struct session){.control = *control, .terms = *terms, .key = *key, .fd = fd, .services = services,
                          .bins_each = bins_each, .bins = room, .threads = session_threads(terms, grouped),
                          .setup_until_ns = now_ns + SESSION_SETUP_NS, .tally.running = 1,
                          .tally.budget.limit = terms->byte_limit ? terms->byte_limit : UINT64_MAX};
    if (control->kind == KIND_TCP_CRR)
        tcp_crr_token(key, control, s->token);
    for (uint32_t i = 0; i < terms->sockets; i++) {
        services[i] = (struct service){.session = s, .terms = &s->terms, .tally = &s->tally, .fd = -1,
                                       .bins = room + i * bins_each,
                                       .intervals = {.terms = &s->terms, .count = (uint32_t)bins}};
        memset(services[i].counts, 0xff, sizeof services[i].counts); /* unknown until somebody counts it */
        services[i].counts[RESULT_BYTES] = services[i].counts[RESULT_OPERATIONS] = 0;
        services[i].counts[RESULT_SENT_BYTES] = services[i].counts[RESULT_SENT_OPERATIONS] = 0;
        services[i].tag = udp_tag(control, (uint16_t)(i + 1));
        services[i].worker = (struct worker){.index = i, .loop = service_run};
        snprintf(services[i].worker.name, WORKER_NAME_BYTES, "cvm-serve-%u", i + 1);
    }
    return s;
}

/* Hand a data socket to its service, and start that when it has all it serves. Returns 0 or -errno; the socket stays
 * the caller's on failure. */
static inline int session_serve(struct session *s, uint16_t index, int fd)
{
    struct service *v = &s->services[index - 1];
    struct worker *w = s->threads < s->terms.sockets ? &s->services[0].worker : &v->worker;
    int complete = s->threads == s->terms.sockets || s->arrived + 1 == s->terms.sockets;
    __atomic_store_n(&v->fd, fd, __ATOMIC_RELAXED);
    w->gate = s->gate;
    int r = complete ? worker_spawn(w) : 0;
    if (r < 0) {
        __atomic_store_n(&v->fd, -1, __ATOMIC_RELAXED);
        return r;
    }
    s->arrived++;
    s->spawned += (uint32_t)complete;
    if (!session_running(s))
        session_cut(s); /* it was cut while we started this one */
    return 0;
}

/* Whether nobody but the responder's own thread touches it any more, and nothing will come of it. */
static inline int session_over(const struct session *s)
{
    if (__atomic_load_n(&s->ended, __ATOMIC_ACQUIRE) < s->spawned)
        return 0;
    return !session_running(s) || s->spawned == s->threads;
}

static inline void session_free(struct session *s)
{
    for (uint32_t i = 0; i < s->terms.sockets; i++) {
        worker_join(&s->services[i].worker);
        if (s->services[i].fd >= 0)
            close(s->services[i].fd);
    }
    if (s->fd >= 0)
        close(s->fd);
    free(s->services);
    free(s->bins);
    explicit_bzero(s, sizeof *s);
    free(s);
}

#endif
