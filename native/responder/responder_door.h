/* Who gets into a responder: its state, the hellos it reads, the sessions it opens for them.
 *
 *     hello by TCP (responder_accept.h) ──┬─ right: reply; control socket watched, data socket to a service
 *                                         └─ wrong, late, replayed, unknown: closed without a word
 *     datagram (responder_udp.h) ─────────┴─ the same, with a cookie before and silence instead of closing
 */
#ifndef CVMPROBE_RESPONDER_DOOR_H
#define CVMPROBE_RESPONDER_DOOR_H

#include <fcntl.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/epoll.h>

#include "responder/admission.h"
#include "socket/keepalive.h"
#include "responder/responder_session.h"
#include "session/socket_options.h"
#include "responder/udp_socket.h"

#define RESPONDER_MAX_HANDSHAKES 512
#define RESPONDER_MAX_SESSIONS 2048
#define RESPONDER_MAX_SERVICES 4096 /* threads */
#define RESPONDER_KINDS 16
#define RESPONDER_HELLO_NS UINT64_C(2000000000)
#define RESPONDER_PAUSE_NS UINT64_C(50000000) /* without descriptors, before accepting again */

enum responder_count {
    COUNT_CONNECTIONS,
    COUNT_HELLOS,
    COUNT_MALFORMED,
    COUNT_UNKNOWN,
    COUNT_FORGED,
    COUNT_REPLAYED,
    COUNT_REFUSED,
    COUNT_TIMED_OUT,
    COUNT_SESSIONS,
    COUNT_COMPLETED,
    COUNT_CUT,
    COUNT_COOKIES,
    COUNT_SHORT, /* times that descriptors, threads or memory were not to be had */
    RESPONDER_COUNTS,
};

struct handshake {
    int fd; /* -1: free, or a datagram */
    uint32_t received;
    uint64_t until_ns;
    const struct udp_way *way; /* of a datagram */
    uint8_t data[sizeof(struct hello) + SESSION_MAX_TERMS];
};

struct responder {
    struct worker worker;
    struct gate gate;
    service_loop serve[RESPONDER_KINDS]; /* by kind; NULL: not served */
    int grouped[RESPONDER_KINDS];        /* by kind; one thread serves all sockets of a session */
    int listener;
    int datagrams; /* UDP, on the same port */
    uint16_t port;
    int wake;
    int epoll;
    uint8_t cookie_secret[SHA256_BYTES];
    uint64_t accept_after_ns; /* 0: now */
    uint64_t look_ns;         /* when something may have to be ended or looked at */
    const char *short_of;     /* atomic: the call that failed last for want of something; a literal */
    int short_errno;
    uint64_t counts[RESPONDER_COUNTS]; /* single writer: the responder's thread */
    struct handshake handshakes[RESPONDER_MAX_HANDSHAKES];
    struct node_cpu node; /* as looked at last, for all sessions */
    pthread_mutex_t lock; /* guards what follows */
    struct admissions admissions;
    struct session *sessions[RESPONDER_MAX_SESSIONS];
    uint32_t session_count;
    uint32_t service_count;
};

static inline void responder_counted(struct responder *r, enum responder_count what)
{
    counter_add(&r->counts[what], 1);
}

/* Keep why somebody could not be served whom there was no reason to refuse. Returns whether that is what happened. */
static inline int responder_ran_short(struct responder *r, const char *call, int error)
{
    if (error != -EMFILE && error != -ENFILE && error != -EAGAIN && error != -ENOMEM && error != -ENOBUFS &&
        error != -EUSERS)
        return 0;
    r->short_errno = -error;
    __atomic_store_n(&r->short_of, call, __ATOMIC_RELEASE);
    responder_counted(r, COUNT_SHORT);
    return 1;
}

/* Tell of a socket by `what` (a handshake, a session, one of our own), or of other `events` of it. Returns 0 or -errno. */
static inline int responder_tell(struct responder *r, int fd, uint32_t events, void *what)
{
    struct epoll_event e = {.events = events, .data.ptr = what};
    if (!epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &e))
        return 0;
    return errno == EEXIST && !epoll_ctl(r->epoll, EPOLL_CTL_MOD, fd, &e) ? 0 : -errno;
}

/* Look at everything again at this time at the latest. */
static inline void responder_look_at(struct responder *r, uint64_t at_ns)
{
    if (at_ns < r->look_ns)
        r->look_ns = at_ns;
}

/* -- sessions; the lock is held -- */

/* The running session of an admission, or NULL. */
static inline struct session *responder_running(const struct admission *a)
{
    return a && a->session && session_running(a->session) ? a->session : NULL;
}

/* Tell its admission what the session has moved since it was told last. */
static inline void responder_charge(struct session *s)
{
    uint64_t bytes = __atomic_load_n(&s->tally.bytes, __ATOMIC_RELAXED);
    if (s->admission) {
        s->admission->spent_bytes += bytes - s->charged_bytes;
        s->admission->moved_bytes += bytes - s->charged_bytes;
    }
    s->charged_bytes = bytes;
}

static inline void responder_cut(struct admission *a)
{
    struct session *s = responder_running(a);
    if (!s)
        return;
    session_cut(s);
    responder_charge(s);
}

/* An admission ends: cut its session, and let go of those that are still winding up. */
static inline void responder_forget(struct responder *r, struct admission *a)
{
    responder_cut(a);
    for (uint32_t i = 0; a->sessions && i < r->session_count; i++)
        if (r->sessions[i]->admission == a)
            r->sessions[i]->admission = NULL;
    admission_clear(&r->admissions, a);
}

/* A session is over: settle with its admission, which may have lived for this session only. */
static inline void responder_settle(struct responder *r, struct session *s)
{
    struct admission *a = s->admission;
    responder_charge(s);
    if (!a)
        return;
    if (a->session == s)
        a->session = NULL;
    if (!--a->sessions && a->open)
        admission_clear(&r->admissions, a);
}

/* When this session may have to be ended or looked at. */
static inline uint64_t responder_due(const struct session *s, uint64_t now_ns)
{
    uint64_t end_ns = session_running(s) ? session_end_ns(s) : UINT64_MAX;
    return session_waits(s) && now_ns + SESSION_LOOK_NS < end_ns ? now_ns + SESSION_LOOK_NS : end_ns;
}

/* Look at the node for a session, with one look for all that want one. */
static inline void responder_look_for(struct responder *r, struct session *s, uint64_t now_ns)
{
    if (!session_wants_look(s, now_ns))
        return;
    if (now_ns >= r->node.at_ns + SESSION_LOOK_NS / 2)
        r->node = node_cpu_read();
    session_look(s, &r->node);
}

/* End what is due, free what is over, and note when to look again. */
static inline void responder_reap(struct responder *r, uint64_t now_ns)
{
    for (uint32_t i = 0; i < r->session_count;) {
        struct session *s = r->sessions[i];
        if (now_ns >= session_end_ns(s))
            session_cut(s);
        responder_look_for(r, s, now_ns);
        if (!session_over(s)) {
            responder_look_at(r, responder_due(s, now_ns));
            i++;
            continue;
        }
        responder_counted(r, s->complete ? COUNT_COMPLETED : COUNT_CUT);
        responder_settle(r, s);
        r->service_count -= s->threads;
        epoll_ctl(r->epoll, EPOLL_CTL_DEL, s->fd, NULL); /* closing is not enough while a child of a fork has it, too */
        session_free(s);
        r->sessions[i] = r->sessions[--r->session_count];
    }
}

/* -- hellos; the lock is held -- */

/* When this session has to end whatever happens: its admission's end, or its own drain. */
static inline uint64_t responder_deadline(const struct admission *a, const struct session_terms *t, uint64_t now_ns)
{
    uint64_t own = now_ns + SESSION_SETUP_NS + t->duration_ms * UINT64_C(1000000) + 2 * SESSION_DRAIN_NS;
    return t->duration_ms && own < a->valid_until_ns ? own : a->valid_until_ns;
}

static inline int responder_open_session(struct responder *r, struct admission *a, const struct handshake *c,
                                         const struct hello *h, uint64_t now_ns)
{
    struct session_terms terms;
    memcpy(&terms, c->data + sizeof *h, sizeof terms);
    if (!session_terms_sound(h->kind, &terms) || !r->serve[h->kind])
        return -EINVAL;
    responder_cut(a); /* the initiator has begun anew; what was left of it is stale */
    uint32_t threads = session_threads(&terms, r->grouped[h->kind]);
    if (r->session_count == RESPONDER_MAX_SESSIONS || r->service_count + threads > RESPONDER_MAX_SERVICES)
        return -EUSERS;
    if (a->spent_bytes >= a->max_bytes)
        return -EDQUOT;
    struct session *s = session_new(h, &terms, &a->key, r->grouped[h->kind], c->fd, now_ns);
    if (!s)
        return -ENOMEM;
    s->serve = r->serve[h->kind];
    s->gate = &r->gate;
    s->wake = r->wake;
    s->tally.limit = a->max_bytes - a->spent_bytes;
    s->deadline_ns = responder_deadline(a, &terms, now_ns);
    int error = responder_tell(r, c->fd, EPOLLIN | EPOLLRDHUP, s);
    if (error) {
        s->fd = -1; /* still the caller's */
        session_free(s);
        return error;
    }
    responder_look_at(r, now_ns);
    r->sessions[r->session_count++] = s;
    r->service_count += s->threads;
    s->admission = a;
    a->session = s;
    a->sessions++;
    responder_counted(r, COUNT_SESSIONS);
    return 0;
}

/* The reply leaves first: the service may have to write to the same socket. */
static inline int responder_reply(const struct admission *a, int fd, const struct hello *h)
{
    struct reply reply = reply_to(&a->key, h);
    return send(fd, &reply, sizeof reply, MSG_NOSIGNAL) == sizeof reply ? 0 : -EPIPE;
}

/* Give a data socket what the terms ask; what the kernel refuses is told to the initiator. Returns 0 or -errno. */
static inline int responder_set_options(const struct session *s, const struct admission *a, int fd,
                                        const struct hello *h)
{
    struct refusal refused = {0};
    int error = options_apply(fd, &s->terms, session_kind_is_udp(h->kind) ? OPTIONS_UDP : OPTIONS_ACCEPTED, &refused);
    if (!error)
        return 0;
    struct reply reply = reply_refusing(&a->key, h, refused.option, refused.error);
    send(fd, &reply, sizeof reply, MSG_NOSIGNAL);
    return error;
}

/* Serve a UDP data socket, or move it to where its initiator has dialed from anew because it saw no reply. */
static inline int responder_start_datagrams(struct session *s, const struct admission *a, const struct udp_way *way,
                                            const struct hello *h)
{
    int served = s->services[h->index - 1].fd;
    int fd = served >= 0 ? served : udp_connected(way);
    if (fd < 0)
        return fd;
    int error = served >= 0 ? udp_reconnect(fd, way) : responder_set_options(s, a, fd, h);
    if (!error)
        error = responder_reply(a, fd, h);
    if (!error && served < 0)
        error = session_serve(s, h->index, fd);
    if (error && served < 0)
        close(fd);
    return error;
}

static inline int responder_start_service(struct responder *r, const struct admission *a, const struct handshake *c,
                                          const struct hello *h)
{
    struct session *s = responder_running(a);
    if (!s || memcmp(s->control.nonce, h->control_nonce, SESSION_NONCE_BYTES) || h->index > s->terms.sockets)
        return -ENOENT;
    if (c->way)
        return responder_start_datagrams(s, a, c->way, h);
    if (s->services[h->index - 1].fd >= 0)
        return -ENOENT;
    epoll_ctl(r->epoll, EPOLL_CTL_DEL, c->fd, NULL); /* it may have been waited for */
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) & ~O_NONBLOCK);
    int error = responder_set_options(s, a, c->fd, h);
    if (!error)
        error = responder_reply(a, c->fd, h);
    return error ? error : session_serve(s, h->index, c->fd);
}

/* Let a right hello in. Returns 0, or why not. */
static inline int responder_let_in(struct responder *r, struct admission *a, const struct handshake *c,
                                   const struct hello *h, uint64_t now_ns)
{
    int error = admission_use_nonce(&r->admissions, a, h);
    if (error == -EALREADY)
        responder_counted(r, COUNT_REPLAYED);
    if (!error && (h->kind != a->kind || (c->way != NULL) != (h->index && session_kind_is_udp(h->kind))))
        error = -EPROTO;
    if (!error)
        error = h->index ? responder_start_service(r, a, c, h) : responder_open_session(r, a, c, h, now_ns);
    if (error && error != -EALREADY)
        responder_counted(r, COUNT_REFUSED);
    if (error && responder_ran_short(r, h->index ? "start a service" : "open a session", error) && h->index)
        responder_cut(a); /* it will never be complete: its initiator learns it now */
    return error;
}

/* Look at a complete hello. Returns 0 (the socket is taken), or why not. */
static inline int responder_greet(struct responder *r, const struct handshake *c, size_t size, uint64_t now_ns)
{
    struct hello h;
    memcpy(&h, c->data, sizeof h);
    struct admission *a = admission_of(&r->admissions, c->data, size, now_ns);
    if (!a || now_ns >= a->valid_until_ns) {
        responder_counted(r, COUNT_UNKNOWN);
        return -ENOENT;
    }
    if (!hello_verify(c->data, size, &a->key)) {
        responder_counted(r, COUNT_FORGED);
        return -EBADMSG;
    }
    int error = responder_let_in(r, a, c, &h, now_ns);
    if (error && a->open && !a->sessions)
        admission_clear(&r->admissions, a);
    if (error)
        return error;
    responder_counted(r, COUNT_HELLOS);
    if (!h.index && responder_reply(a, c->fd, &h))
        responder_cut(a);
    return 0;
}

#endif
