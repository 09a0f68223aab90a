/* The responder: one thread that listens, lets sessions in, cuts and frees them, and never waits for any one peer.
 *
 * Its sockets never block, hellos have a deadline and a bounded number of places, sessions are served by others.
 */
#ifndef CVMPROBE_RESPONDER_H
#define CVMPROBE_RESPONDER_H

#include "responder_accept.h"
#include "responder_udp.h"

#define RESPONDER_OWN_FDS 3    /* listener, datagrams, wake */
#define RESPONDER_PORT_TRIES 16 /* for one that is free for TCP and UDP */

/* -- its thread -- */

/* Whom to wait for, and how long: fills `fds` (own ones, handshakes, controls) and returns their number. */
static inline nfds_t responder_watch(struct responder *r, struct pollfd *fds, uint64_t now_ns, uint64_t *until_ns)
{
    nfds_t n = 0;
    *until_ns = UINT64_MAX;
    fds[n++] = (struct pollfd){.fd = now_ns < r->accept_after_ns ? -1 : r->listener, .events = POLLIN};
    if (now_ns < r->accept_after_ns)
        *until_ns = r->accept_after_ns;
    fds[n++] = (struct pollfd){.fd = r->datagrams, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = r->wake, .events = POLLIN};
    while (r->places && r->handshakes[r->places - 1].fd < 0)
        r->places--;
    for (unsigned i = 0; i < r->places; i++) {
        const struct handshake *c = &r->handshakes[i];
        fds[n++] = (struct pollfd){.fd = c->fd, .events = POLLIN};
        if (c->fd >= 0 && c->until_ns < *until_ns)
            *until_ns = c->until_ns;
    }
    pthread_mutex_lock(&r->lock);
    for (uint32_t i = 0; i < r->session_count; i++) {
        const struct session *s = r->sessions[i];
        uint64_t end_ns = session_end_ns(s);
        fds[n++] = (struct pollfd){.fd = session_running(s) ? s->fd : -1, .events = session_events(s)};
        if (session_waits(s) && now_ns + SESSION_LOOK_NS < end_ns)
            end_ns = now_ns + SESSION_LOOK_NS;
        if (session_running(s) && end_ns < *until_ns)
            *until_ns = end_ns;
    }
    pthread_mutex_unlock(&r->lock);
    return n;
}

static inline void responder_watched(struct responder *r, const struct pollfd *fds, nfds_t n, uint64_t now_ns)
{
    eventfd_t ignored;
    uint32_t places = r->places; /* as they were watched */
    if (fds[2].revents)
        eventfd_read(r->wake, &ignored);
    for (unsigned i = 0; i < places; i++) {
        struct handshake *c = &r->handshakes[i];
        if (c->fd < 0 || (fds[RESPONDER_OWN_FDS + i].revents && handshake_read(r, c, now_ns)) || now_ns < c->until_ns)
            continue;
        responder_counted(r, COUNT_TIMED_OUT);
        handshake_close(c);
    }
    if (fds[0].revents)
        responder_accept(r, now_ns);
    if (fds[1].revents)
        responder_receive(r, now_ns);
    pthread_mutex_lock(&r->lock);
    for (nfds_t i = RESPONDER_OWN_FDS + places; i < n; i++)
        for (uint32_t k = 0; fds[i].revents && k < r->session_count; k++)
            if (r->sessions[k]->fd == fds[i].fd)
                session_heard(r->sessions[k]);
    responder_reap(r, now_ns);
    pthread_mutex_unlock(&r->lock);
}

static inline void responder_loop(struct worker *w)
{
    struct responder *r = (struct responder *)w;
    struct pollfd fds[RESPONDER_OWN_FDS + RESPONDER_MAX_HANDSHAKES + RESPONDER_MAX_SESSIONS];
    while (worker_running(w)) {
        uint64_t until_ns, now_ns = clock_now_ns();
        nfds_t n = responder_watch(r, fds, now_ns, &until_ns);
        uint64_t left_ms = until_ns <= now_ns ? 0 : (until_ns - now_ns) / 1000000 + 1;
        poll(fds, n, until_ns == UINT64_MAX ? -1 : left_ms > 60000 ? 60000 : (int)left_ms);
        responder_watched(r, fds, n, clock_now_ns());
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
    r->wake = r->listener = r->datagrams = -1;
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
        __atomic_store_n(&s->tally.limit, s->charged_bytes + max_bytes, __ATOMIC_RELAXED);
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
    responder_close_listeners(r);
    r->wake = -1;
}

#endif
