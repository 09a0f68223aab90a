/* The responder: one thread that listens, lets sessions in, cuts and frees them, and never waits for any one peer.
 *
 * Its sockets never block, hellos have a deadline and a bounded number of places, sessions are served by others.
 */
#ifndef CVMPROBE_RESPONDER_H
#define CVMPROBE_RESPONDER_H

#include "responder/responder_accept.h"
#include "responder/responder_udp.h"

#define RESPONDER_EVENTS 64
#define RESPONDER_WAIT_MS 60000
#define RESPONDER_PORT_TRIES 16 /* for one that is free for TCP and UDP */

/* -- its thread -- */

/* Something happened on a control socket, or on one that is not watched any more. */
static inline void responder_heard(struct responder *r, struct session *s)
{
    pthread_mutex_lock(&r->lock);
    if (session_running(s))
        session_heard(s);
    if (session_running(s))
        responder_tell(r, s->fd, 0, s); /* its end was all it had to say; a reset is told nevertheless */
    else
        epoll_ctl(r->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    pthread_mutex_unlock(&r->lock);
    r->look_ns = 0;
}

static inline void responder_event(struct responder *r, void *what, uint64_t now_ns)
{
    eventfd_t ignored;
    struct handshake *c = (struct handshake *)what;
    if (what == &r->listener) {
        responder_accept(r, now_ns);
    } else if (what == &r->datagrams) {
        responder_receive(r, now_ns);
    } else if (what == &r->wake) {
        eventfd_read(r->wake, &ignored);
        r->look_ns = 0;
    } else if (c < r->handshakes || c >= r->handshakes + RESPONDER_MAX_HANDSHAKES) {
        responder_heard(r, (struct session *)what);
    } else if (c->fd >= 0) {
        handshake_read(r, c, now_ns);
    }
}

/* End, free and look at what is due. Sessions are freed nowhere else: no event may still be about one. */
static inline void responder_look(struct responder *r, uint64_t now_ns)
{
    r->look_ns = UINT64_MAX;
    for (unsigned i = 0; i < RESPONDER_MAX_HANDSHAKES; i++) {
        struct handshake *c = &r->handshakes[i];
        if (c->fd >= 0 && now_ns >= c->until_ns) {
            responder_counted(r, COUNT_TIMED_OUT);
            handshake_close(c);
        }
        if (c->fd >= 0)
            responder_look_at(r, c->until_ns);
    }
    if (r->accept_after_ns && now_ns >= r->accept_after_ns) {
        r->accept_after_ns = 0;
        responder_tell(r, r->listener, EPOLLIN, &r->listener);
    }
    if (r->accept_after_ns)
        responder_look_at(r, r->accept_after_ns);
    pthread_mutex_lock(&r->lock);
    responder_reap(r, now_ns);
    pthread_mutex_unlock(&r->lock);
}

static inline int responder_wait_ms(const struct responder *r)
{
    uint64_t now_ns = clock_now_ns();
    uint64_t left_ms = r->look_ns <= now_ns ? 0 : (r->look_ns - now_ns) / 1000000 + 1;
    return left_ms > RESPONDER_WAIT_MS ? RESPONDER_WAIT_MS : (int)left_ms;
}

static inline void responder_loop(struct worker *w)
{
    struct responder *r = (struct responder *)w;
    struct epoll_event events[RESPONDER_EVENTS];
    while (worker_running(w)) {
        int n = epoll_wait(r->epoll, events, RESPONDER_EVENTS, responder_wait_ms(r));
        uint64_t now_ns = clock_now_ns();
        for (int i = 0; i < n; i++)
            responder_event(r, events[i].data.ptr, now_ns);
        if (now_ns >= r->look_ns)
            responder_look(r, now_ns);
    }
}

/* -- for its owner -- */

/* Bind a new socket of `type` to `address`. Returns it or -errno, and the call in *call. */
static inline int responder_bind(const struct sockaddr *address, socklen_t bytes, int type, const char **call)
{
    static const int on = 1, off = 0;
    *call = "socket";
    int fd = socket(address->sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (type == SOCK_STREAM)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    *call = "bind";
    if (!bind(fd, address, bytes))
        return fd;
    int error = -errno;
    close(fd);
    return error;
}

/* Listen on `address`: TCP, and UDP on the same port. Returns 0 or -errno; the caller closes what is open. */
static inline int responder_bind_both(struct responder *r, const struct sockaddr *address, socklen_t bytes,
                                      const char **call)
{
    struct sockaddr_storage bound;
    r->listener = responder_bind(address, bytes, SOCK_STREAM, call);
    if (r->listener < 0)
        return r->listener;
    *call = "listen";
    responder_set_listener(r->listener);
    if (listen(r->listener, SOMAXCONN))
        return -errno;
    *call = "getsockname";
    if (getsockname(r->listener, (struct sockaddr *)&bound, &bytes))
        return -errno;
    r->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                : ((struct sockaddr_in *)&bound)->sin_port);
    r->datagrams = responder_bind((struct sockaddr *)&bound, bytes, SOCK_DGRAM, call);
    if (r->datagrams < 0)
        return r->datagrams;
    *call = "setsockopt";
    return udp_listen(r->datagrams, bound.ss_family);
}

static inline void responder_close_listeners(struct responder *r)
{
    if (r->listener >= 0)
        close(r->listener);
    if (r->datagrams >= 0)
        close(r->datagrams);
    r->listener = r->datagrams = -1;
}

/* Listen on a numeric address, without resolving names; a port of the kernel's choice must be free for both. */
static inline int responder_listen(struct responder *r, const char *host, uint16_t port, const char **call)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *found;
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    *call = "getaddrinfo";
    if (getaddrinfo(host, service, &hints, &found))
        return -EINVAL;
    int error = -EADDRINUSE;
    for (unsigned i = 0; error == -EADDRINUSE && i < (port ? 1 : RESPONDER_PORT_TRIES); i++) {
        responder_close_listeners(r);
        error = responder_bind_both(r, found->ai_addr, found->ai_addrlen, call);
    }
    freeaddrinfo(found);
    return error;
}

/* Start the thread of a zeroed responder on port `port` (0: the kernel's choice). Returns 0 or -errno. */
static inline int responder_open(struct responder *r, const char *host, uint16_t port, const char **call)
{
    r->wake = r->epoll = r->listener = r->datagrams = -1;
    for (unsigned i = 0; i < RESPONDER_MAX_HANDSHAKES; i++)
        r->handshakes[i].fd = -1;
    pthread_mutex_init(&r->lock, NULL);
    admissions_init(&r->admissions);
    int error = responder_listen(r, host, port, call);
    if (error)
        return error;
    *call = "getrandom";
    if (getrandom(r->cookie_secret, sizeof r->cookie_secret, 0) != sizeof r->cookie_secret)
        return -EIO;
    *call = "eventfd";
    r->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (r->wake < 0)
        return -errno;
    *call = "epoll_create1";
    r->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (r->epoll < 0)
        return -errno;
    *call = "epoll_ctl";
    if (responder_tell(r, r->listener, EPOLLIN, &r->listener) || responder_tell(r, r->wake, EPOLLIN, &r->wake) ||
        responder_tell(r, r->datagrams, EPOLLIN, &r->datagrams))
        return -errno;
    r->look_ns = UINT64_MAX;
    r->gate.go = 1;
    r->worker.gate = &r->gate;
    r->worker.loop = responder_loop;
    strcpy(r->worker.name, "cvm-responder");
    *call = "pthread_create";
    return worker_spawn(&r->worker);
}

static inline uint32_t responder_sessions(struct responder *r)
{
    pthread_mutex_lock(&r->lock);
    uint32_t count = r->session_count;
    pthread_mutex_unlock(&r->lock);
    return count;
}

/* Carry a new end over to the session that runs. */
static inline void responder_extend(struct admission *a, uint64_t valid_until_ns)
{
    struct session *s = responder_running(a);
    a->valid_until_ns = valid_until_ns;
    if (s)
        s->deadline_ns = responder_deadline(a, &s->terms, clock_now_ns());
}

/* Carry a new allowance over to the session that runs. */
static inline void responder_allow(struct admission *a, uint64_t max_bytes)
{
    struct session *s = responder_running(a);
    a->max_bytes = max_bytes;
    if (s) {
        responder_charge(s);
        uint64_t most = UINT64_MAX - s->charged_bytes;
        __atomic_store_n(&s->tally.limit, s->charged_bytes + (max_bytes < most ? max_bytes : most), __ATOMIC_RELAXED);
    }
    a->spent_bytes = 0;
}

/* Returns 0 or -ENOSPC. The same id, kind and key again renew the admission: a new end, a new allowance of bytes, also
 * for the session that runs; nonces stay used. */
static inline int responder_admit(struct responder *r, const uint8_t *session_id, const struct session_key *key,
                                  uint8_t kind, uint64_t valid_until_ns, uint64_t max_bytes)
{
    pthread_mutex_lock(&r->lock);
    struct admission *a = admission_find(&r->admissions, session_id);
    if (a && (a->kind != kind || memcmp(&a->key, key, sizeof *key))) {
        responder_forget(r, a);
        a = NULL;
    }
    if (!a)
        a = admission_place(&r->admissions, session_id, clock_now_ns());
    if (a) {
        a->open = 0;
        a->kind = kind;
        a->key = *key;
        responder_extend(a, valid_until_ns);
        responder_allow(a, max_bytes);
    }
    pthread_mutex_unlock(&r->lock);
    eventfd_write(r->wake, 1); /* an end may have come nearer */
    return a ? 0 : -ENOSPC;
}

/* Let in any session id and kind under this key, each session for so many bytes. The same key again is a new end, also
 * for the sessions that run; another key ends them. */
static inline void responder_admit_any(struct responder *r, const struct session_key *key, uint64_t valid_until_ns,
                                       uint64_t max_bytes)
{
    struct open_admission *any = &r->admissions.any;
    pthread_mutex_lock(&r->lock);
    int same = any->used && !memcmp(&any->key, key, sizeof *key);
    for (uint32_t i = 0; i < ADMISSION_MAX; i++) {
        struct admission *a = &r->admissions.places[i];
        if (a->used && a->open && same)
            responder_extend(a, valid_until_ns);
        else if (a->used && a->open)
            responder_forget(r, a);
    }
    if (!same)
        nonce_set_clear(&any->nonces);
    any->used = 1;
    any->key = *key;
    any->valid_until_ns = valid_until_ns;
    any->max_bytes = max_bytes;
    pthread_mutex_unlock(&r->lock);
    eventfd_write(r->wake, 1);
}

/* Forget an id and end its session at once. */
static inline void responder_revoke(struct responder *r, const uint8_t *session_id)
{
    pthread_mutex_lock(&r->lock);
    struct admission *a = admission_find(&r->admissions, session_id);
    if (a)
        responder_forget(r, a);
    pthread_mutex_unlock(&r->lock);
    eventfd_write(r->wake, 1);
}

/* Payload that the sessions of an admission have moved so far, both ways; RESULT_UNKNOWN where there is none. */
static inline uint64_t responder_spent(struct responder *r, const uint8_t *session_id)
{
    pthread_mutex_lock(&r->lock);
    struct admission *a = admission_find(&r->admissions, session_id);
    for (uint32_t i = 0; a && i < r->session_count; i++)
        if (r->sessions[i]->admission == a)
            responder_charge(r->sessions[i]);
    uint64_t spent = a ? a->moved_bytes : RESULT_UNKNOWN;
    pthread_mutex_unlock(&r->lock);
    return spent;
}

/* Stop, cut all sessions, wait for their services, free everything but *r itself. Also after a failed open. */
static inline void responder_close(struct responder *r)
{
    __atomic_store_n(&r->worker.running, 0, __ATOMIC_RELAXED);
    if (r->wake >= 0)
        eventfd_write(r->wake, 1);
    worker_join(&r->worker);
    for (unsigned i = 0; i < RESPONDER_MAX_HANDSHAKES; i++)
        if (r->handshakes[i].fd >= 0)
            handshake_close(&r->handshakes[i]);
    for (uint32_t i = 0; i < r->session_count; i++)
        session_cut(r->sessions[i]);
    for (uint32_t i = 0; i < r->session_count; i++)
        session_free(r->sessions[i]);
    r->session_count = 0;
    admissions_clear(&r->admissions);
    if (r->wake >= 0)
        close(r->wake);
    if (r->epoll >= 0)
        close(r->epoll);
    responder_close_listeners(r);
    r->wake = r->epoll = -1;
}

#endif
