/* What a session sends over its UDP data sockets, drawn once. All numbers little endian, all reserved bytes zero.
 *
 * cookie   0      4         5   8        24
 *          | CVMC | version | 0 | cookie |           the initiator's: zeros; the responder's answer: what to show
 * opening  0                    24       120
 *          | cookie, as answered | hello |           answered by the hello's reply, of 64 bytes, or by silence
 * payload  0     4         8          16
 *          | tag | sent_ns | sequence | payload …    in both directions
 *
 *     initiator                        responder
 *     a new socket ── cookie, zeros ──► listener ── cookie ──► stateless, no longer than what was asked
 *                  ── opening ────────► listener: a socket of its own on the same port, connected to the initiator
 *                  ◄── reply ────────── from that socket
 *                  ◄── payload ───────► its service
 *     no answer: again with a new socket, cookie and nonce; a later hello for the same data socket moves it to its sender
 *
 * There is no FIN: after its last datagram on the last data socket the initiator half-closes the control socket. What
 * arrives after that is late; it is counted until it has been quiet for a while, and what has not come by then is lost.
 */
#ifndef CVMPROBE_UDP_DATAGRAM_H
#define CVMPROBE_UDP_DATAGRAM_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "session/session.h"

#define UDP_COOKIE_BYTES 16

struct udp_cookie {
    char magic[4];
    uint8_t version;
    uint8_t zero[3];
    uint8_t cookie[UDP_COOKIE_BYTES];
};

struct udp_opening {
    struct udp_cookie shown;
    struct hello hello;
};

struct udp_header {
    uint32_t tag;      /* udp_tag() of its session and data socket */
    uint32_t sent_ns;  /* low half of the sender's CLOCK_MONOTONIC; differences of transit times are what it is for */
    uint64_t sequence; /* from 0, of each direction of each socket; requests: over all sockets, responses have theirs */
};

_Static_assert(sizeof(struct udp_cookie) == 24 && offsetof(struct udp_cookie, cookie) == 8, "cookie as drawn");
_Static_assert(sizeof(struct udp_opening) == 120, "opening as drawn");
_Static_assert(sizeof(struct udp_header) == SESSION_MIN_DATAGRAM && offsetof(struct udp_header, sequence) == 8, "payload as drawn");

/* What tells the datagrams of this data socket from whatever else may arrive on it. */
static inline uint32_t udp_tag(const struct hello *control, uint16_t index)
{
    uint32_t nonce;
    memcpy(&nonce, control->nonce, sizeof nonce);
    return nonce ^ (index * UINT32_C(0x9e3779b1));
}

/* Whether these are a payload datagram of this data socket; its header is then in *h. */
static inline int udp_header_read(struct udp_header *h, const void *data, size_t size, uint32_t tag)
{
    if (size < sizeof *h)
        return 0;
    memcpy(h, data, sizeof *h);
    return h->tag == tag;
}

static inline struct udp_cookie udp_cookie_of(const uint8_t *cookie)
{
    struct udp_cookie c = {.magic = {'C', 'V', 'M', 'C'}, .version = SESSION_VERSION};
    memcpy(c.cookie, cookie, sizeof c.cookie);
    return c;
}

static inline int udp_cookie_sound(const struct udp_cookie *c)
{
    return !memcmp(c->magic, "CVMC", 4) && c->version == SESSION_VERSION && session_is_zero(c->zero, sizeof c->zero);
}

#endif
