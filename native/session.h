/* What the two ends of a session say to each other, drawn once. All numbers little endian, all reserved bytes zero.
 *
 * Every socket opens with a hello and is answered by a reply, or closed without a word. Socket 0 is the control socket;
 * its hello carries the terms, and over it the results come back when all data sockets have been drained.
 *
 * hello   0      4         5      6       8            24      40              56            58  64    96
 *         | CVMP | version | kind | index | session id | nonce | control nonce | terms bytes | 0 | mac | terms
 * terms   0         2      4             8             12              16               20  32
 *         | sockets | mode | interval_ms | duration_ms | request_bytes | response_bytes | 0 |
 * reply   0      4         5      6       8               24  32    64
 *         | CVMR | version | kind | index | hello's nonce | 0 | mac |
 * results 0      4         5      6      8               24      32           40         48        56       64  96
 *         | CVMT | version | kind | bins | control nonce | bytes | operations | first_ns | last_ns | cpu_ns | mac |
 *
 * The results are followed by their bins.
 *
 * macs are HMAC-SHA256 under the session's key: of the hello up to its mac, and the terms; of the reply up to its mac,
 * and the hello's mac; of the results up to their mac, and the bins. A hello's nonce is accepted once; a retry has
 * a new one. A bin is a u64: what arrived in one interval since the session's first payload byte, on the responder's
 * clock; the last bin holds what came after the deadline, so the bins add up to the total.
 */
#ifndef CVMPROBE_SESSION_H
#define CVMPROBE_SESSION_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "sha256.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structs are sent as they lie in memory");

#define SESSION_VERSION 1
#define SESSION_ID_BYTES 16
#define SESSION_NONCE_BYTES 16
#define SESSION_MAX_TERMS 256
#define SESSION_MAX_SOCKETS 64
#define SESSION_MAX_BINS 4097
#define SESSION_MAX_MESSAGE (1u << 20)
#define SESSION_MAX_DURATION_MS (24u * 3600 * 1000)
#define SESSION_MAX_KEY 64
#define SESSION_MIN_KEY 16

enum session_kind { KIND_TCP_STREAM = 1, KIND_TCP_RR = 2 };
enum session_mode { MODE_COPY = 0, MODE_DISCARD = 1, MODE_BLOCK = 0, MODE_SPIN = 1 };

struct session_key {
    uint32_t size;
    uint8_t bytes[SESSION_MAX_KEY];
};

struct hello {
    char magic[4];
    uint8_t version;
    uint8_t kind;
    uint16_t index; /* 0: control; else data socket 1 .. sockets */
    uint8_t session_id[SESSION_ID_BYTES];
    uint8_t nonce[SESSION_NONCE_BYTES];
    uint8_t control_nonce[SESSION_NONCE_BYTES]; /* of the control hello this socket belongs to; its own on socket 0 */
    uint16_t terms_bytes;                       /* 0 on data sockets */
    uint8_t zero[6];
    uint8_t mac[SHA256_BYTES];
};

struct session_terms {
    uint16_t sockets;
    uint16_t mode; /* tcp_stream: enum copy, discard; tcp_rr: block, spin */
    uint32_t interval_ms;
    uint32_t duration_ms; /* 0: until the session is ended, without bins */
    uint32_t request_bytes;
    uint32_t response_bytes; /* 0 where the kind has no response */
    uint8_t zero[12];
};

struct reply {
    char magic[4];
    uint8_t version;
    uint8_t kind;
    uint16_t index;
    uint8_t nonce[SESSION_NONCE_BYTES];
    uint8_t zero[8];
    uint8_t mac[SHA256_BYTES];
};

struct results {
    char magic[4];
    uint8_t version;
    uint8_t kind;
    uint16_t bins;
    uint8_t control_nonce[SESSION_NONCE_BYTES];
    uint64_t bytes;
    uint64_t operations;
    uint64_t first_ns; /* CLOCK_MONOTONIC of the responder; 0: nothing arrived */
    uint64_t last_ns;
    uint64_t cpu_ns; /* of the responder's threads for this session */
    uint8_t mac[SHA256_BYTES];
};

_Static_assert(sizeof(struct hello) == 96 && offsetof(struct hello, mac) == 64, "hello as drawn");
_Static_assert(offsetof(struct hello, session_id) == 8 && offsetof(struct hello, terms_bytes) == 56, "hello as drawn");
_Static_assert(sizeof(struct session_terms) == 32 && offsetof(struct session_terms, zero) == 20, "terms as drawn");
_Static_assert(sizeof(struct reply) == 64 && offsetof(struct reply, mac) == 32, "reply as drawn");
_Static_assert(sizeof(struct results) == 96 && offsetof(struct results, bytes) == 24, "results as drawn");
_Static_assert(sizeof(struct session_terms) <= SESSION_MAX_TERMS, "terms fit");

static inline int session_is_zero(const uint8_t *bytes, size_t size)
{
    unsigned any = 0;
    for (size_t i = 0; i < size; i++)
        any |= bytes[i];
    return !any;
}

/* Intervals until the deadline and the one behind it; 0 where the session has no bins. */
static inline uint32_t session_bins(uint8_t kind, const struct session_terms *t)
{
    if (kind != KIND_TCP_STREAM || !t->duration_ms)
        return 0;
    return (uint32_t)(((uint64_t)t->duration_ms + t->interval_ms - 1) / t->interval_ms) + 1;
}

/* Whether the terms are ones that this kind can keep. */
static inline int session_terms_sound(uint8_t kind, const struct session_terms *t)
{
    if (!t->sockets || t->sockets > SESSION_MAX_SOCKETS || t->mode > 1)
        return 0;
    if (!t->interval_ms || t->duration_ms > SESSION_MAX_DURATION_MS || session_bins(kind, t) > SESSION_MAX_BINS)
        return 0;
    if (!t->request_bytes || t->request_bytes > SESSION_MAX_MESSAGE || t->response_bytes > SESSION_MAX_MESSAGE)
        return 0;
    if (!session_is_zero(t->zero, sizeof t->zero))
        return 0;
    if (kind == KIND_TCP_STREAM)
        return t->duration_ms && !t->response_bytes;
    return kind == KIND_TCP_RR && t->response_bytes;
}

/* Look at the first `received` bytes of a socket.
 * Returns how many bytes the hello has in all (more may still have to come), 0 while that is not known, or -EPROTO as
 * soon as it cannot become a hello. */
static inline int hello_measure(const uint8_t *data, size_t received)
{
    static const uint8_t opening[5] = {'C', 'V', 'M', 'P', SESSION_VERSION};
    struct hello h;
    if (memcmp(data, opening, received < sizeof opening ? received : sizeof opening))
        return -EPROTO;
    if (received < sizeof h)
        return 0;
    memcpy(&h, data, sizeof h);
    if (h.index > SESSION_MAX_SOCKETS || !session_is_zero(h.zero, sizeof h.zero))
        return -EPROTO;
    if (h.terms_bytes != (h.index ? 0 : sizeof(struct session_terms)))
        return -EPROTO;
    return (int)(sizeof h + h.terms_bytes);
}

static inline void hello_mac(const struct session_key *k, const uint8_t *hello, size_t size, uint8_t mac[SHA256_BYTES])
{
    struct hmac m;
    hmac_init(&m, k->bytes, k->size);
    hmac_update(&m, hello, offsetof(struct hello, mac));
    hmac_update(&m, hello + sizeof(struct hello), size - sizeof(struct hello));
    hmac_final(&m, mac);
}

/* Write a sealed hello to `out` (room for header and terms). `terms` is NULL on data sockets. Returns its size. */
static inline size_t hello_pack(uint8_t *out, const struct session_key *k, struct hello h,
                                const struct session_terms *terms)
{
    memcpy(h.magic, "CVMP", 4);
    h.version = SESSION_VERSION;
    h.terms_bytes = terms ? sizeof *terms : 0;
    memset(h.zero, 0, sizeof h.zero);
    size_t size = sizeof h + h.terms_bytes;
    memcpy(out, &h, sizeof h);
    if (terms)
        memcpy(out + sizeof h, terms, sizeof *terms);
    hello_mac(k, out, size, out + offsetof(struct hello, mac));
    return size;
}

/* Whether a measured, complete hello was sealed under this key. */
static inline int hello_verify(const uint8_t *hello, size_t size, const struct session_key *k)
{
    uint8_t mac[SHA256_BYTES];
    hello_mac(k, hello, size, mac);
    return hmac_equal(mac, hello + offsetof(struct hello, mac));
}

static inline void reply_mac(const struct session_key *k, const struct reply *r, const struct hello *h,
                             uint8_t mac[SHA256_BYTES])
{
    struct hmac m;
    hmac_init(&m, k->bytes, k->size);
    hmac_update(&m, r, offsetof(struct reply, mac));
    hmac_update(&m, h->mac, sizeof h->mac);
    hmac_final(&m, mac);
}

/* The one answer to a hello. */
static inline struct reply reply_to(const struct session_key *k, const struct hello *h)
{
    struct reply r = {.magic = {'C', 'V', 'M', 'R'}, .version = SESSION_VERSION, .kind = h->kind, .index = h->index};
    memcpy(r.nonce, h->nonce, sizeof r.nonce);
    reply_mac(k, &r, h, r.mac);
    return r;
}

/* Whether `r` is that answer: it can only come from who knows the key and has seen this hello. */
static inline int reply_verify(const struct session_key *k, const struct reply *r, const struct hello *h)
{
    struct reply expected = reply_to(k, h);
    return !memcmp(r, &expected, offsetof(struct reply, mac)) && hmac_equal(r->mac, expected.mac);
}

static inline void results_mac(const struct session_key *k, const struct results *r, const uint64_t *bins,
                               uint8_t mac[SHA256_BYTES])
{
    struct hmac m;
    hmac_init(&m, k->bytes, k->size);
    hmac_update(&m, r, offsetof(struct results, mac));
    hmac_update(&m, bins, r->bins * sizeof *bins);
    hmac_final(&m, mac);
}

/* Fill in what results have in common and seal them with their bins. */
static inline void results_seal(const struct session_key *k, struct results *r, const struct hello *control,
                                const uint64_t *bins)
{
    memcpy(r->magic, "CVMT", 4);
    r->version = SESSION_VERSION;
    r->kind = control->kind;
    memcpy(r->control_nonce, control->nonce, sizeof r->control_nonce);
    results_mac(k, r, bins, r->mac);
}

/* Whether a results header can belong to this session: look before reading `bins` words more. */
static inline int results_sound(const struct results *r, const struct hello *control, const struct session_terms *t)
{
    return !memcmp(r->magic, "CVMT", 4) && r->version == SESSION_VERSION && r->kind == control->kind &&
           r->bins == session_bins(control->kind, t) &&
           !memcmp(r->control_nonce, control->nonce, sizeof r->control_nonce);
}

static inline int results_verify(const struct session_key *k, const struct results *r, const uint64_t *bins)
{
    uint8_t mac[SHA256_BYTES];
    results_mac(k, r, bins, mac);
    return hmac_equal(mac, r->mac);
}

#endif
