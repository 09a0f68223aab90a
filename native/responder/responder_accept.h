/* What comes in by TCP: connections are accepted, and what they open with decides.
 *
 *     accept ─┬─ hello, within 2 s ── to the door
 *             ├─ token of a tcp_crr session (tcp_crr_token.h) ── request ── response ── closed by us first
 *             └─ anything else, or silence ── closed without a word
 *
 * A transaction of tcp_crr is answered here, in the responder's own thread: handing the connection to another thread
 * would cost as much as the transaction. The response leaves with our FIN, and is small enough for the kernel to take
 * at once. Nothing here waits: the request has as long as a hello. But it mostly follows the connection within
 * microseconds, so whoever makes it may run first where it has to share our CPU: that costs less than to be told of it.
 */
#ifndef CVMPROBE_RESPONDER_ACCEPT_H
#define CVMPROBE_RESPONDER_ACCEPT_H

#include <sched.h>

#include "responder/responder_door.h"

/* -- handshakes -- */

static inline void handshake_close(struct handshake *c)
{
    close(c->fd);
    c->fd = -1;
}

/* A free place, else the place of who has been silent longest. */
static inline struct handshake *handshake_place(struct responder *r)
{
    struct handshake *oldest = &r->handshakes[0];
    for (unsigned i = 0; i < RESPONDER_MAX_HANDSHAKES; i++) {
        struct handshake *c = &r->handshakes[i];
        if (c->fd < 0)
            return c;
        if (c->until_ns < oldest->until_ns)
            oldest = c;
    }
    responder_counted(r, COUNT_TIMED_OUT);
    handshake_close(oldest);
    return oldest;
}

/* Receive up to `size` bytes. Returns how many, 0 when there is nothing yet, or -EPROTO when no more will come. */
static inline ssize_t handshake_receive(struct handshake *c, void *to, size_t size)
{
    ssize_t n = recv(c->fd, to, size, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -EPROTO;
    c->received += (uint32_t)n;
    return n;
}

/* -- transactions of tcp_crr -- */

/* Only the responder's own thread opens and frees sessions, so it may look at them without the lock. */
static inline struct session *transaction_session(struct responder *r, const uint8_t *token)
{
    for (uint32_t i = 0; i < r->session_count; i++) {
        struct session *s = r->sessions[i];
        if (s->control.kind == KIND_TCP_CRR && session_running(s) && tcp_crr_equal(s->token, token))
            return s;
    }
    return NULL;
}

/* Answer a request that is there; closing sends it. Returns 0, or -errno for one that does not count. */
static inline int transaction_answer(const struct handshake *c, struct session *s, uint64_t now_ns)
{
    static const uint8_t response[SESSION_MAX_SHORT];
    uint64_t none = 0, size = s->terms.response_bytes;
    if (send(c->fd, response, size, MSG_NOSIGNAL | MSG_MORE) != (ssize_t)size)
        return -EPIPE;
    __atomic_compare_exchange_n(&s->tally.first_ns, &none, now_ns, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    if (service_charge(&s->services[0], s->terms.request_bytes + size))
        session_cut(s);
    return 0;
}

/* Read on a request that opened with a token. Returns 1 when it is over with this place, 0 when more has to come. */
static inline int transaction_read(struct responder *r, struct handshake *c, uint64_t now_ns)
{
    uint8_t rest[4096];
    struct session *s = transaction_session(r, c->data);
    if (!s)
        responder_counted(r, COUNT_UNKNOWN);
    while (s && c->received < s->terms.request_bytes) {
        size_t wanted = s->terms.request_bytes - c->received;
        ssize_t n = handshake_receive(c, rest, wanted < sizeof rest ? wanted : sizeof rest);
        if (n == 0)
            return 0;
        if (n < 0)
            break;
    }
    if (s && (c->received != s->terms.request_bytes || transaction_answer(c, s, now_ns)))
        responder_counted(r, COUNT_MALFORMED);
    handshake_close(c);
    return 1;
}

/* -- what a connection opens with -- */

/* How many bytes to read before the next look at what it is; 0: a whole hello, negative: neither that nor a token. */
static inline int handshake_wanted(const struct handshake *c)
{
    int size = hello_measure(c->data, c->received);
    if (size < 0 || !c->received)
        return tcp_crr_opens(c->data, c->received) ? (int)(TCP_CRR_TOKEN_BYTES - c->received) : size;
    return (size ? size : (int)sizeof(struct hello)) - (int)c->received;
}

/* Read what is there of the hello or token and no byte more. Returns 1 when it is over with this place, else 0. */
static inline int handshake_read(struct responder *r, struct handshake *c, uint64_t now_ns)
{
    for (;;) {
        if (c->received >= TCP_CRR_TOKEN_BYTES && tcp_crr_opens(c->data, c->received))
            return transaction_read(r, c, now_ns);
        int wanted = handshake_wanted(c);
        if (wanted == 0) {
            pthread_mutex_lock(&r->lock);
            int refused = responder_greet(r, c, c->received, now_ns);
            pthread_mutex_unlock(&r->lock);
            if (refused)
                handshake_close(c);
            else
                keepalive_set(c->fd);
            c->fd = -1;
            return 1;
        }
        ssize_t n = wanted < 0 ? wanted : handshake_receive(c, c->data + c->received, (size_t)wanted);
        if (n == 0)
            return 0;
        if (n < 0)
            break;
    }
    responder_counted(r, COUNT_MALFORMED);
    handshake_close(c);
    return 1;
}

/* What accepted sockets are to inherit. */
static inline void responder_set_listener(int fd)
{
    static const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Let others come while there is no descriptor for them, and look again soon. */
static inline void responder_pause(struct responder *r, uint64_t now_ns)
{
    r->accept_after_ns = now_ns + RESPONDER_PAUSE_NS;
    responder_look_at(r, r->accept_after_ns);
    responder_tell(r, r->listener, 0, &r->listener);
}

/* Read what a new connection opens with, if need be after those who are ready to run here. Returns as handshake_read. */
static inline int handshake_open(struct responder *r, struct handshake *c, uint64_t now_ns)
{
    if (handshake_read(r, c, now_ns))
        return 1;
    if (!c->received)
        sched_yield();
    return handshake_read(r, c, now_ns);
}

static inline void responder_accept(struct responder *r, uint64_t now_ns)
{
    for (unsigned i = 0; i < RESPONDER_MAX_HANDSHAKES; i++) {
        int fd = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            int error = -errno;
            if (error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM) {
                responder_ran_short(r, "accept a connection", error);
                responder_pause(r, now_ns);
            }
            return;
        }
        struct handshake *c = handshake_place(r);
        c->fd = fd;
        c->received = 0;
        c->until_ns = now_ns + RESPONDER_HELLO_NS;
        responder_counted(r, COUNT_CONNECTIONS);
        if (!handshake_open(r, c, now_ns)) {
            responder_look_at(r, c->until_ns);
            if (responder_tell(r, c->fd, EPOLLIN, c))
                handshake_close(c);
        }
        if (c->received && tcp_crr_opens(c->data, c->received))
            return; /* the next one has hardly come by now, and epoll tells of it */
    }
}

#endif
