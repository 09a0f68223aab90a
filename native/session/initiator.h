/* The initiator's end of a session: dial every socket until its hello is answered, then wait for the results.
 *
 *     dial: connect ── hello ── reply ── next socket        closed, refused: again with a new nonce, for 2 s
 *           an address that several endpoints answer at: again, as often as `dials`, for the right one to answer
 *           UDP data sockets: a new one for each try (udp_datagram.h); silence is what closing is elsewhere
 *     data sockets are handed to their threads; the control socket stays here and is silent until the results
 *     UDP: when all data sockets have sent their last, initiator_sent_last half-closes the control socket
 */
#ifndef CVMPROBE_INITIATOR_H
#define CVMPROBE_INITIATOR_H

#include <fcntl.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "engine/budget.h"
#include "engine/clock.h"
#include "session/initiator_udp.h"
#include "socket/keepalive.h"
#include "session/session.h"
#include "session/socket_options.h"

#define INITIATOR_PATIENCE_NS UINT64_C(2000000000) /* without any progress */
#define INITIATOR_PAUSE_NS UINT64_C(10000000)      /* between two tries */
#define INITIATOR_DRAIN_NS UINT64_C(2000000000)    /* from the deadline to the last byte of the results */
#define INITIATOR_SLICE_MS 50                      /* longest wait without a look at whether to go on */

struct initiator {
    struct session_key key;
    struct session_terms terms;
    struct hello control; /* as it was sent and answered */
    struct sockaddr_storage address;
    socklen_t address_bytes;
    int fds[1 + SESSION_MAX_SOCKETS]; /* -1: not open */
    uint32_t answered;                /* sockets whose hello was answered */
    /* the try under way */
    struct hello hello;
    struct reply reply;
    uint32_t received; /* of the reply */
    int connected;
    struct udp_dial udp;
    uint32_t dialed;   /* times, for this socket */
    uint32_t dials;    /* met by another than the wanted endpoint so often at the most; 0: as long as patience lasts */
    uint64_t retry_ns;
    uint64_t give_up_ns;
    int cause; /* -errno of the last try that failed */
    struct refusal refused; /* what a kernel would not do for a data socket */
    int refused_by_peer;
    /* the budget and the end */
    struct budget budget;   /* of the senders here */
    struct budget incoming; /* of the senders there */
    uint32_t sent_last;   /* atomic: UDP data sockets that have nothing more to send */
    uint32_t complete;    /* atomic: results and bins are there and true */
    struct results results;
    uint64_t *bins; /* room for session_bins() of every series */
};

static inline void initiator_init(struct initiator *s)
{
    for (unsigned i = 0; i <= SESSION_MAX_SOCKETS; i++)
        s->fds[i] = -1;
}

/* Take up to `wanted` bytes of the session's budget, for one sender. Returns what may be sent; 0: it is used up. */
static inline uint64_t initiator_reserve(struct initiator *s, uint64_t wanted)
{
    return budget_take(&s->budget, wanted);
}

/* Note payload that the responder sent. Returns 0, or -EDQUOT when it is more than the terms allow. */
static inline int initiator_take_in(struct initiator *s, uint64_t bytes)
{
    return budget_take(&s->incoming, bytes) < bytes ? -EDQUOT : 0;
}

/* Find the peer; a name is resolved here, once. Returns 0 or -errno. */
static inline int initiator_resolve(struct initiator *s, const char *host, uint16_t port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found;
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    int error = getaddrinfo(host, service, &hints, &found);
    if (error)
        return error == EAI_SYSTEM ? -errno : error == EAI_MEMORY ? -ENOMEM : -EADDRNOTAVAIL;
    memcpy(&s->address, found->ai_addr, found->ai_addrlen);
    s->address_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* -- one try -- */

/* Whether the socket under way is UDP. */
static inline int initiator_dials_udp(const struct initiator *s)
{
    return s->answered && session_kind_is_udp(s->control.kind);
}

/* Give up this try. Returns 0 where another may do better, else the error. */
static inline int initiator_retry(struct initiator *s, int error)
{
    int *fd = &s->fds[s->answered];
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    s->cause = error;
    s->retry_ns = clock_now_ns() + INITIATOR_PAUSE_NS;
    int wrong_endpoint = error == (initiator_dials_udp(s) ? -ETIMEDOUT : -ECONNRESET);
    if (wrong_endpoint && s->dials) { /* the right one is nearer than before */
        if (s->dialed >= s->dials)
            return error;
        s->give_up_ns = clock_now_ns() + INITIATOR_PATIENCE_NS;
    }
    switch (-error) {
    case ECONNREFUSED: case ECONNRESET: case ECONNABORTED: case EPIPE: case ETIMEDOUT: case EHOSTUNREACH:
    case ENETUNREACH:
        return 0;
    }
    return error;
}

/* Seal the hello of this try. Returns its size in `data` (room for header and terms), or -EIO. */
static inline int initiator_seal_hello(struct initiator *s, uint8_t *data)
{
    s->hello = s->control;
    s->hello.index = (uint16_t)s->answered;
    if (getrandom(s->hello.nonce, SESSION_NONCE_BYTES, 0) != SESSION_NONCE_BYTES)
        return -EIO;
    if (!s->answered)
        memcpy(s->hello.control_nonce, s->hello.nonce, SESSION_NONCE_BYTES);
    size_t bytes = hello_pack(data, &s->key, s->hello, s->answered ? NULL : &s->terms);
    memcpy(&s->hello, data, sizeof s->hello);
    return (int)bytes;
}

static inline int initiator_begin_udp(struct initiator *s, int fd)
{
    uint8_t data[sizeof(struct hello) + sizeof(struct session_terms)];
    int sealed = initiator_seal_hello(s, data);
    return sealed < 0 ? sealed : udp_dial_begin(&s->udp, fd, s->dials != 0);
}

static inline int initiator_connect(struct initiator *s)
{
    int udp = initiator_dials_udp(s), type = udp ? SOCK_DGRAM : SOCK_STREAM;
    int fd = s->fds[s->answered] = socket(s->address.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    s->connected = 0;
    s->received = 0;
    s->dialed++;
    if (fd < 0)
        return -errno;
    int error = s->answered ? options_apply(fd, &s->terms, udp ? OPTIONS_UDP : OPTIONS_CONNECTING, &s->refused) : 0;
    if (error)
        return error;
    if (connect(fd, (struct sockaddr *)&s->address, s->address_bytes) && errno != EINPROGRESS)
        return -errno;
    return udp ? initiator_begin_udp(s, fd) : 0;
}

static inline int initiator_say_hello(struct initiator *s, int fd)
{
    uint8_t data[sizeof(struct hello) + sizeof(struct session_terms)];
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) || error)
        return error ? -error : -errno;
    s->connected = 1;
    int bytes = initiator_seal_hello(s, data);
    if (bytes < 0)
        return bytes;
    ssize_t n = send(fd, data, (size_t)bytes, MSG_NOSIGNAL);
    return n == bytes ? 0 : n < 0 ? -errno : -EPIPE;
}

/* The socket is the session's now; data sockets block, at most for a slice. */
static inline void initiator_keep(struct initiator *s, int fd)
{
    static const struct timeval slice = {.tv_usec = INITIATOR_SLICE_MS * 1000};
    static const int on = 1;
    if (!initiator_dials_udp(s))
        keepalive_set(fd);
    if (!s->answered) {
        s->control = s->hello;
    } else {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof slice);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof slice);
        if (s->terms.response_bytes && !initiator_dials_udp(s))
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    s->answered++;
    s->dialed = s->udp.tries = 0;
    s->retry_ns = 0;
    s->give_up_ns = clock_now_ns() + INITIATOR_PATIENCE_NS;
}

/* A whole reply is there. Returns 0 or -errno. */
static inline int initiator_take_reply(struct initiator *s, int fd)
{
    if (!reply_verify(&s->key, &s->reply, &s->hello))
        return -EBADMSG;
    if (s->reply.refused_option) {
        s->refused_by_peer = 1;
        return option_refused(&s->refused, (enum socket_option)s->reply.refused_option, (int)s->reply.refused_errno);
    }
    initiator_keep(s, fd);
    return 0;
}

static inline int initiator_read_reply(struct initiator *s, int fd)
{
    ssize_t n = recv(fd, (char *)&s->reply + s->received, sizeof s->reply - s->received, 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -ECONNRESET; /* closed without a word */
    s->received += (uint32_t)n;
    return s->received < sizeof s->reply ? 0 : initiator_take_reply(s, fd);
}

/* Wait for what the socket under way needs, and do it. Returns 0 or -errno. */
static inline int initiator_dial_on(struct initiator *s, int fd)
{
    if (initiator_dials_udp(s)) {
        int r = udp_dial_on(&s->udp, fd, &s->reply, &s->hello, INITIATOR_SLICE_MS);
        return r == 1 ? initiator_take_reply(s, fd) : r;
    }
    struct pollfd p = {.fd = fd, .events = s->connected ? POLLIN : POLLOUT};
    if (poll(&p, 1, INITIATOR_SLICE_MS) <= 0)
        return 0;
    return s->connected ? initiator_read_reply(s, fd) : initiator_say_hello(s, fd);
}

/* Dial on for one slice. Returns 0 when all sockets are answered, -EAGAIN to be called again, or the final -errno. */
static inline int initiator_dial(struct initiator *s)
{
    uint64_t slice_end_ns = clock_now_ns() + INITIATOR_SLICE_MS * UINT64_C(1000000);
    if (!s->give_up_ns)
        s->give_up_ns = clock_now_ns() + INITIATOR_PATIENCE_NS;
    while (s->answered <= s->terms.sockets) {
        uint64_t now_ns = clock_now_ns();
        int fd = s->fds[s->answered], error = 0;
        if (now_ns >= s->give_up_ns)
            return s->cause ? s->cause : -ETIMEDOUT;
        if (now_ns >= slice_end_ns)
            return -EAGAIN;
        if (fd < 0 && now_ns < s->retry_ns) {
            clock_sleep_until(s->retry_ns);
        } else if (fd < 0) {
            error = initiator_connect(s);
        } else {
            error = initiator_dial_on(s, fd);
        }
        if (error && (error = initiator_retry(s, error)))
            return error;
    }
    return 0;
}

/* -- the end -- */

/* A UDP data socket has sent its last datagram and wants no more; after the last of them the responder drains. */
static inline void initiator_sent_last(struct initiator *s)
{
    if (__atomic_add_fetch(&s->sent_last, 1, __ATOMIC_ACQ_REL) == s->terms.sockets)
        shutdown(s->fds[0], SHUT_WR);
}

/* Read exactly `size` bytes from the control socket while *running and until `until_ns`. Returns 0 or -errno. */
static inline int initiator_read(struct initiator *s, void *to, size_t size, const uint32_t *running, uint64_t until_ns)
{
    uint8_t *at = (uint8_t *)to;
    while (size) {
        ssize_t n = recv(s->fds[0], at, size, 0);
        if (n == 0)
            return -ECONNRESET;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n > 0) {
            at += n;
            size -= (size_t)n;
            continue;
        }
        if (!__atomic_load_n(running, __ATOMIC_RELAXED))
            return -ECANCELED;
        if (clock_now_ns() >= until_ns)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = s->fds[0], .events = POLLIN};
        poll(&p, 1, INITIATOR_SLICE_MS);
    }
    return 0;
}

/* Wait for the results; they may come before the deadline when the budget is used up. Returns 0 or -errno. */
static inline int initiator_await_results(struct initiator *s, const uint32_t *running, uint64_t deadline_ns)
{
    uint64_t until_ns = deadline_ns > UINT64_MAX - INITIATOR_DRAIN_NS ? UINT64_MAX : deadline_ns + INITIATOR_DRAIN_NS;
    int error = initiator_read(s, &s->results, sizeof s->results, running, until_ns);
    if (error)
        return error;
    if (!results_sound(&s->results, &s->control, &s->terms))
        return -EPROTO;
    error = initiator_read(s, s->bins, results_bins_bytes(&s->results), running, until_ns);
    if (error)
        return error;
    if (!results_verify(&s->key, &s->results, s->bins))
        return -EBADMSG;
    __atomic_store_n(&s->complete, 1, __ATOMIC_RELEASE);
    return 0;
}

/* Close all sockets. A session that is not complete is torn down, so that the peer does not take it for drained. */
static inline void initiator_close(struct initiator *s)
{
    static const struct linger now = {.l_onoff = 1};
    for (unsigned i = 0; i <= SESSION_MAX_SOCKETS; i++) {
        if (s->fds[i] < 0)
            continue;
        if (!s->complete)
            setsockopt(s->fds[i], SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(s->fds[i]);
        s->fds[i] = -1;
    }
    explicit_bzero(&s->key, sizeof s->key);
}

#endif
