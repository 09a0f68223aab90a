/* The responder's UDP door: cookies for whoever asks, hellos of who shows one, silence for everything else. */
#ifndef CVMPROBE_RESPONDER_UDP_H
#define CVMPROBE_RESPONDER_UDP_H

#include <sys/random.h>

#include "responder/responder_door.h"
#include "responder/udp_socket.h"

#define RESPONDER_COOKIE_NS UINT64_C(30000000000) /* a cookie is good for this one and the next */
#define RESPONDER_DATAGRAMS 64                    /* read before others have their turn */

_Static_assert(sizeof(struct reply) <= sizeof(struct udp_opening), "no answer is longer than what it answers");

/* What a peer at this address has to show, in this slot of time; nothing is kept. */
static inline void responder_cookie(const struct responder *r, const struct udp_way *way, uint64_t slot,
                                    uint8_t mac[SHA256_BYTES])
{
    struct hmac m;
    hmac_init(&m, r->cookie_secret, sizeof r->cookie_secret);
    if (way->peer.ss_family == AF_INET6) {
        const struct sockaddr_in6 *peer = (const struct sockaddr_in6 *)&way->peer;
        hmac_update(&m, &peer->sin6_addr, sizeof peer->sin6_addr);
        hmac_update(&m, &peer->sin6_port, sizeof peer->sin6_port);
    } else {
        const struct sockaddr_in *peer = (const struct sockaddr_in *)&way->peer;
        hmac_update(&m, &peer->sin_addr, sizeof peer->sin_addr);
        hmac_update(&m, &peer->sin_port, sizeof peer->sin_port);
    }
    hmac_update(&m, &slot, sizeof slot);
    hmac_final(&m, mac);
}

static inline int responder_knows_cookie(const struct responder *r, const struct udp_way *way, const uint8_t *shown,
                                         uint64_t now_ns)
{
    uint8_t mac[SHA256_BYTES], padded[SHA256_BYTES];
    uint64_t slot = now_ns / RESPONDER_COOKIE_NS;
    for (uint64_t back = 0; back < 2 && back <= slot; back++) {
        responder_cookie(r, way, slot - back, mac);
        memcpy(padded, mac, sizeof padded);
        memcpy(padded, shown, UDP_COOKIE_BYTES);
        if (hmac_equal(mac, padded))
            return 1;
    }
    return 0;
}

static inline void responder_give_cookie(struct responder *r, const struct udp_way *way, uint64_t now_ns)
{
    uint8_t mac[SHA256_BYTES];
    responder_cookie(r, way, now_ns / RESPONDER_COOKIE_NS, mac);
    struct udp_cookie cookie = udp_cookie_of(mac);
    responder_counted(r, COUNT_COOKIES);
    udp_answer(r->datagrams, way, &cookie, sizeof cookie);
}

/* Let in who shows its cookie and a hello. */
static inline void responder_open_datagrams(struct responder *r, const struct udp_way *way,
                                            const struct udp_opening *o, uint64_t now_ns)
{
    struct handshake c = {.fd = -1, .way = way, .received = sizeof o->hello};
    memcpy(c.data, &o->hello, sizeof o->hello);
    if (!responder_knows_cookie(r, way, o->shown.cookie, now_ns) ||
        hello_measure(c.data, c.received) != (int)c.received) {
        responder_counted(r, COUNT_MALFORMED);
        return;
    }
    pthread_mutex_lock(&r->lock);
    responder_greet(r, &c, c.received, now_ns);
    pthread_mutex_unlock(&r->lock);
}

/* Read what has arrived on the listening socket. */
static inline void responder_receive(struct responder *r, uint64_t now_ns)
{
    struct udp_opening o;
    struct udp_way way;
    for (int i = 0; i < RESPONDER_DATAGRAMS; i++) {
        ssize_t n = udp_receive(r->datagrams, htons(r->port), &o, sizeof o, &way);
        if (n == -EAGAIN)
            return;
        int asked = n == sizeof o.shown || n == sizeof o;
        if (!asked || !udp_cookie_sound(&o.shown))
            responder_counted(r, COUNT_MALFORMED);
        else if (n == sizeof o)
            responder_open_datagrams(r, &way, &o, now_ns);
        else if (session_is_zero(o.shown.cookie, UDP_COOKIE_BYTES))
            responder_give_cookie(r, &way, now_ns);
        else
            responder_counted(r, COUNT_MALFORMED);
    }
}

#endif
