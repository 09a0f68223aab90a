/* How the initiator dials one UDP data socket: each try with a new socket, a new cookie and a new nonce. */
#ifndef CVMPROBE_INITIATOR_UDP_H
#define CVMPROBE_INITIATOR_UDP_H

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "engine/clock.h"
#include "session/udp_datagram.h"

#define UDP_DIAL_NS UINT64_C(100000000) /* one try; each one after it takes twice as long */
#define UDP_DIAL_DOUBLINGS 4

/* The try under way. */
struct udp_dial {
    uint64_t until_ns;
    uint32_t tries;
    struct udp_opening opening;
    int shown; /* the cookie is known and was shown with the hello */
};

static inline int udp_send_all(int fd, const void *data, size_t size)
{
    ssize_t n = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n == (ssize_t)size ? 0 : n < 0 ? -errno : -EPIPE;
}

/* Begin a try on a connected socket. `steady`: the next one must not take longer than this one. */
static inline int udp_dial_begin(struct udp_dial *d, int fd, int steady)
{
    static const uint8_t none[UDP_COOKIE_BYTES];
    unsigned doublings = steady ? 0 : d->tries < UDP_DIAL_DOUBLINGS ? d->tries : UDP_DIAL_DOUBLINGS;
    struct udp_cookie wanted = udp_cookie_of(none);
    d->until_ns = clock_now_ns() + (UDP_DIAL_NS << doublings);
    d->tries++;
    d->shown = 0;
    return udp_send_all(fd, &wanted, sizeof wanted);
}

/* Look at what arrived, for one slice at the most. Returns 1 when there is a reply, 0 to look again, or -errno. */
static inline int udp_dial_on(struct udp_dial *d, int fd, struct reply *reply, const struct hello *sealed, int slice_ms)
{
    union {
        struct udp_cookie cookie;
        struct reply reply;
    } answer;
    uint64_t now_ns = clock_now_ns();
    if (now_ns >= d->until_ns)
        return -ETIMEDOUT;
    int left_ms = (int)((d->until_ns - now_ns) / 1000000) + 1;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, left_ms < slice_ms ? left_ms : slice_ms) <= 0)
        return 0;
    ssize_t n = recv(fd, &answer, sizeof answer, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (d->shown) {
        *reply = answer.reply;
        return n == sizeof answer.reply && !memcmp(reply->nonce, sealed->nonce, sizeof reply->nonce);
    }
    if (n != sizeof answer.cookie || !udp_cookie_sound(&answer.cookie))
        return 0;
    d->shown = 1;
    d->opening.shown = answer.cookie;
    d->opening.hello = *sealed;
    return udp_send_all(fd, &d->opening, sizeof d->opening);
}

#endif
