/* What the two ends of a session say to each other, drawn once. All numbers little endian, all reserved bytes zero.
 *
 * Every socket opens with a hello and is answered by a reply, or closed without a word. Socket 0 is the control socket,
 * always TCP; its hello carries the terms, and over it the results come back when all data sockets have been drained.
 * A data socket of a UDP kind asks for a cookie first, and is met with silence instead (udp_datagram.h).
 *
 *     control  ── hello, reply ────────────────────────────────────── FIN (UDP kinds) ── results ──
 *     data            └── hello, reply ── payload ── … ── FIN (TCP kinds)       └ drained ┘
 *
 * hello   0      4         5      6       8            24      40              56            58  64    96
 *         | CVMP | version | kind | index | session id | nonce | control nonce | terms bytes | 0 | mac | terms
 * terms   0         2           3      4         5      6         7   8             12            16              20
 *         | sockets | direction | wait | receive | dscp | offload | 0 | interval_ms | duration_ms | request_bytes |
 *         20               24             28             32    36  40                 48           56           72  96
 *         | response_bytes | sndbuf_bytes | rcvbuf_bytes | mss | 0 | rate_bytes_per_s | byte_limit | congestion | 0 |
 * reply   0      4         5      6       8               24               28              32    64
 *         | CVMR | version | kind | index | hello's nonce | refused option | refused errno | mac |
 * results 0      4         5      6      8               24  32                       416   448
 *         | CVMT | version | kind | bins | control nonce | 0 | counts, one per result | mac | bins of all series
 *
 * macs are HMAC-SHA256 under the session's key: of the hello up to its mac, and the terms; of the reply up to its mac,
 * and the hello's mac; of the results up to their mac, and the bins. A hello's nonce is accepted once; a retry has
 * a new one. A count that nobody knows is RESULT_UNKNOWN. A bin is a u64: what was counted in one interval since the
 * session's first payload byte, on the responder's clock; the last bin holds what came after the deadline, so the bins
 * of a series add up to its total. What is sent or received is seen from the responder. A reply that names an option
 * (socket_options.h) says that the responder's kernel refused it; that socket is then closed, others are 0.
 *
 * Of a stream's data sockets the responder sends on none (forward), all (reverse) or the second half (both); there the
 * initiator says one byte when it starts, and FIN once it has read the responder's.
 */
#ifndef CVMPROBE_SESSION_H
#define CVMPROBE_SESSION_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "session/sha256.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structs are sent as they lie in memory");

#define SESSION_VERSION 2
#define SESSION_ID_BYTES 16
#define SESSION_NONCE_BYTES 16
#define SESSION_MAX_TERMS 256
#define SESSION_MAX_SOCKETS 1024
#define SESSION_MAX_STREAMS 64
#define SESSION_MAX_BINS 4097
#define SESSION_MAX_MESSAGE (1u << 20)
#define SESSION_MIN_DATAGRAM 16u /* its header */
#define SESSION_MAX_DATAGRAM 65507u
#define SESSION_MIN_TOKEN 16u /* of a tcp_crr request: its token (tcp_crr_token.h) */
#define SESSION_MAX_SHORT 16384u /* of a tcp_crr message: what the kernel takes at once */
#define SESSION_MAX_DURATION_MS (24u * 3600 * 1000)
#define SESSION_MAX_KEY 64
#define SESSION_MIN_KEY 16
#define SESSION_CONGESTION_BYTES 16

enum session_kind { KIND_TCP_STREAM = 1, KIND_TCP_RR, KIND_TCP_CRR, KIND_UDP_RR, KIND_UDP_STREAM };
enum session_direction { DIRECTION_FORWARD, DIRECTION_REVERSE, DIRECTION_BOTH, DIRECTIONS }; /* of the payload */
enum session_wait { WAIT_BLOCK, WAIT_SPIN, WAIT_EPOLL, WAITS };
enum session_receive { RECEIVE_COPY, RECEIVE_DISCARD, RECEIVES };
enum session_offload { OFFLOAD_BEST, OFFLOAD_GSO, OFFLOAD_MMSG, OFFLOAD_NONE, OFFLOADS };

/* What the responder tells in its results, over all sockets. */
enum session_result {
    RESULT_BYTES,      /* payload received; round trips: both ways */
    RESULT_OPERATIONS, /* receive calls, transactions or datagrams */
    RESULT_FIRST_NS,   /* CLOCK_MONOTONIC of the responder at the first payload byte; unknown: there was none */
    RESULT_LAST_NS,
    RESULT_CPU_NS, /* of the responder's threads for this session */
    RESULT_RUN_DELAY_NS,
    RESULT_SENT_BYTES,
    RESULT_SENT_OPERATIONS,
    RESULT_RETRANSMITTED_SEGMENTS,
    RESULT_LOST,       /* datagrams of the initiator that never arrived here */
    RESULT_DUPLICATES,
    RESULT_REORDERED,
    RESULT_REORDER_EXTENT,
    RESULT_JITTER_NS,
    RESULT_SOCKET_DROPS, /* thrown away for want of room in the receiving socket */
    RESULT_SEND_ERRORS,
    RESULT_NODE_BUSY_NS, /* of all CPUs while the session had payload: user, system, irq, softirq, steal */
    RESULT_NODE_IRQ_NS,
    RESULT_NODE_SOFTIRQ_NS,
    RESULT_NODE_BASELINE_NS, /* as busy as they were before its first payload byte, they would have been so long */
    /* of the connections the responder sends on, as its kernel last said (tcp_path.h) */
    RESULT_BUSY_NS,
    RESULT_RWND_LIMITED_NS,
    RESULT_SNDBUF_LIMITED_NS,
    RESULT_REORDERING_EVENTS,
    RESULT_RTT_NS,     /* the longest */
    RESULT_MIN_RTT_NS, /* the shortest */
    RESULT_PATH_MTU_BYTES, /* the smallest; so of the MSS */
    RESULT_MSS_BYTES,
    RESULT_CONGESTION, /* name of the congestion control, 8 bytes of text in each of two counts */
    RESULT_CONGESTION_REST,
    RESULT_SEND_OFFLOAD, /* enum session_offload: how datagrams were handed over at the responder */
    RESULT_RECEIVE_OFFLOAD,
    RESULT_COUNTS = 48, /* with room for more */
};
#define RESULT_UNKNOWN UINT64_MAX

/* What the responder tells of each interval. */
enum session_series { SERIES_BYTES, SERIES_OPERATIONS, SERIES_SENT_BYTES, SERIES_SENT_OPERATIONS, SERIES_COUNT };

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
    uint8_t direction;
    uint8_t wait;    /* how round trips wait, at both ends */
    uint8_t receive; /* what streams do with what they receive */
    uint8_t dscp;
    uint8_t offload; /* how far udp streams may go */
    uint8_t zero;
    uint32_t interval_ms;
    uint32_t duration_ms; /* 0: until the session is ended, without bins */
    uint32_t request_bytes;  /* streams: of one message or datagram */
    uint32_t response_bytes; /* 0 where the kind has no response */
    uint32_t sndbuf_bytes;   /* 0: as the system has it; so for all that follow */
    uint32_t rcvbuf_bytes;
    uint32_t mss;
    uint32_t zero_too;
    uint64_t rate_bytes_per_s; /* of each sending socket */
    uint64_t byte_limit;       /* of payload, for each direction */
    char congestion[SESSION_CONGESTION_BYTES]; /* name of a congestion control, zeros behind it */
    uint8_t zeros[24];
};

struct reply {
    char magic[4];
    uint8_t version;
    uint8_t kind;
    uint16_t index;
    uint8_t nonce[SESSION_NONCE_BYTES];
    uint32_t refused_option; /* enum socket_option; 0: none was */
    uint32_t refused_errno;
    uint8_t mac[SHA256_BYTES];
};

struct results {
    char magic[4];
    uint8_t version;
    uint8_t kind;
    uint16_t bins;
    uint8_t control_nonce[SESSION_NONCE_BYTES];
    uint8_t zero[8];
    uint64_t counts[RESULT_COUNTS];
    uint8_t mac[SHA256_BYTES];
};

_Static_assert(sizeof(struct hello) == 96 && offsetof(struct hello, mac) == 64, "hello as drawn");
_Static_assert(offsetof(struct hello, session_id) == 8 && offsetof(struct hello, terms_bytes) == 56, "hello as drawn");
_Static_assert(sizeof(struct session_terms) == 96 && offsetof(struct session_terms, rate_bytes_per_s) == 40, "terms as drawn");
_Static_assert(sizeof(struct reply) == 64 && offsetof(struct reply, mac) == 32, "reply as drawn");
_Static_assert(sizeof(struct results) == 448 && offsetof(struct results, counts) == 32, "results as drawn");
_Static_assert(sizeof(struct session_terms) <= SESSION_MAX_TERMS, "terms fit");

static inline int session_is_zero(const uint8_t *bytes, size_t size)
{
    unsigned any = 0;
    for (size_t i = 0; i < size; i++)
        any |= bytes[i];
    return !any;
}

/* Whether the data sockets of this kind are UDP. */
static inline int session_kind_is_udp(uint8_t kind)
{
    return kind == KIND_UDP_RR || kind == KIND_UDP_STREAM;
}

static inline int session_datagram_fits(uint32_t size)
{
    return size >= SESSION_MIN_DATAGRAM && size <= SESSION_MAX_DATAGRAM;
}

/* Intervals until the deadline and the one behind it; 0 where the session has no bins. */
static inline uint32_t session_bins(uint8_t kind, const struct session_terms *t)
{
    if ((kind != KIND_TCP_STREAM && kind != KIND_UDP_STREAM) || !t->duration_ms)
        return 0;
    return (uint32_t)(((uint64_t)t->duration_ms + t->interval_ms - 1) / t->interval_ms) + 1;
}

/* Whether the terms are ones that any kind can keep. */
static inline int session_terms_fit(uint8_t kind, const struct session_terms *t)
{
    if (!t->sockets || t->sockets > SESSION_MAX_SOCKETS || t->direction >= DIRECTIONS || t->wait >= WAITS ||
        t->receive >= RECEIVES || t->offload >= OFFLOADS || t->dscp > 63)
        return 0;
    if (!t->interval_ms || t->duration_ms > SESSION_MAX_DURATION_MS || session_bins(kind, t) > SESSION_MAX_BINS)
        return 0;
    if (!t->request_bytes || t->request_bytes > SESSION_MAX_MESSAGE || t->response_bytes > SESSION_MAX_MESSAGE)
        return 0;
    return !t->zero && !t->zero_too && session_is_zero(t->zeros, sizeof t->zeros) &&
           !t->congestion[SESSION_CONGESTION_BYTES - 1];
}

/* Whether the terms are ones that this kind can keep. */
static inline int session_terms_sound(uint8_t kind, const struct session_terms *t)
{
    if (!session_terms_fit(kind, t))
        return 0;
    switch (kind) {
    case KIND_TCP_STREAM:
        return t->duration_ms && !t->response_bytes && t->sockets <= SESSION_MAX_STREAMS &&
               (t->direction != DIRECTION_BOTH || t->sockets % 2 == 0);
    case KIND_TCP_RR:
        return t->response_bytes > 0;
    case KIND_TCP_CRR:
        return t->sockets == 1 && t->request_bytes >= SESSION_MIN_TOKEN && t->request_bytes <= SESSION_MAX_SHORT &&
               t->response_bytes && t->response_bytes <= SESSION_MAX_SHORT;
    case KIND_UDP_RR:
        return session_datagram_fits(t->request_bytes) && session_datagram_fits(t->response_bytes);
    case KIND_UDP_STREAM:
        return t->duration_ms && session_datagram_fits(t->request_bytes) && !t->response_bytes &&
               t->sockets <= SESSION_MAX_STREAMS && (t->direction != DIRECTION_BOTH || t->sockets % 2 == 0);
    }
    return 0;
}

/* Whether the responder sends the payload of this data socket of a stream. */
static inline int session_responder_sends(const struct session_terms *t, uint32_t index)
{
    return t->direction == DIRECTION_REVERSE || (t->direction == DIRECTION_BOTH && index > t->sockets / 2u);
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

/* The answer to a right hello whose terms the kernel refused: an option and a positive errno. */
static inline struct reply reply_refusing(const struct session_key *k, const struct hello *h, uint32_t option,
                                          uint32_t error)
{
    struct reply r = {.magic = {'C', 'V', 'M', 'R'}, .version = SESSION_VERSION, .kind = h->kind, .index = h->index,
                      .refused_option = option, .refused_errno = error};
    memcpy(r.nonce, h->nonce, sizeof r.nonce);
    reply_mac(k, &r, h, r.mac);
    return r;
}

/* The answer to a right hello. */
static inline struct reply reply_to(const struct session_key *k, const struct hello *h)
{
    return reply_refusing(k, h, 0, 0);
}

/* Whether `r` is one of these answers: it can only come from who knows the key and has seen this hello. */
static inline int reply_verify(const struct session_key *k, const struct reply *r, const struct hello *h)
{
    struct reply expected = reply_refusing(k, h, r->refused_option, r->refused_errno);
    return !memcmp(r, &expected, offsetof(struct reply, mac)) && hmac_equal(r->mac, expected.mac);
}

/* Of all series, one after the other. */
static inline size_t results_bins_bytes(const struct results *r)
{
    return (size_t)r->bins * SERIES_COUNT * sizeof(uint64_t);
}

static inline void results_mac(const struct session_key *k, const struct results *r, const uint64_t *bins,
                               uint8_t mac[SHA256_BYTES])
{
    struct hmac m;
    hmac_init(&m, k->bytes, k->size);
    hmac_update(&m, r, offsetof(struct results, mac));
    hmac_update(&m, bins, results_bins_bytes(r));
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

/* Whether a results header can belong to this session: look before reading the bins. */
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
