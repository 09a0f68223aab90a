/* Whom a responder lets in: session ids with their keys, until when, for how many bytes, and every nonce seen.
 *
 * Beside those that are named there may be one open admission: any session id and kind under one key. Each session that
 * it lets in gets an admission of its own, which ends with it; the nonce of its control hello stays used for good, and
 * a data hello is worth nothing without that control hello.
 */
#ifndef CVMPROBE_ADMISSION_H
#define CVMPROBE_ADMISSION_H

#include "session/nonce_set.h"
#include "session/session.h"

#define ADMISSION_MAX 4096
#define ADMISSION_BUCKETS 4096
/* A session id that was used this often is worn out: it lets nobody in until it is admitted under a new key. */
#define ADMISSION_MAX_NONCES 16384
#define ADMISSION_MAX_OPEN_NONCES (1u << 20) /* so for the open admission; 32 MiB then */
#define ADMISSION_MAX_VALID_MS (25u * 3600 * 1000)

_Static_assert(NONCE_BYTES == SESSION_NONCE_BYTES, "one kind of nonces");

struct session;

struct admission {
    int used;
    int open; /* made by the open admission */
    uint8_t kind;
    uint8_t session_id[SESSION_ID_BYTES];
    struct session_key key;
    uint64_t valid_until_ns;
    uint64_t max_bytes;
    uint64_t spent_bytes; /* of max_bytes */
    uint64_t moved_bytes; /* in all, renewals included */
    struct nonce_set nonces;
    struct session *session; /* the one that runs; NULL: none does */
    uint32_t sessions;       /* that are charged to it, those that are winding up included */
    uint32_t next;           /* in its bucket, or of the free places */
};

struct open_admission {
    int used;
    struct session_key key;
    uint64_t valid_until_ns;
    uint64_t max_bytes; /* of each session */
    struct nonce_set nonces;
};

/* Places are named by their number; ADMISSION_MAX: none. */
struct admissions {
    struct admission places[ADMISSION_MAX];
    uint32_t buckets[ADMISSION_BUCKETS];
    uint32_t free;
    struct open_admission any;
};

static inline void admissions_init(struct admissions *t)
{
    for (uint32_t i = 0; i < ADMISSION_BUCKETS; i++)
        t->buckets[i] = ADMISSION_MAX;
    for (uint32_t i = 0; i < ADMISSION_MAX; i++)
        t->places[i].next = i + 1;
    t->free = 0;
}

/* Session ids are random. */
static inline uint32_t *admission_bucket(struct admissions *t, const uint8_t *session_id)
{
    uint32_t number;
    memcpy(&number, session_id, sizeof number);
    return &t->buckets[number % ADMISSION_BUCKETS];
}

static inline struct admission *admission_find(struct admissions *t, const uint8_t *session_id)
{
    for (uint32_t i = *admission_bucket(t, session_id); i < ADMISSION_MAX; i = t->places[i].next)
        if (!memcmp(t->places[i].session_id, session_id, SESSION_ID_BYTES))
            return &t->places[i];
    return NULL;
}

/* Give a place back. No session may be charged to it any more. */
static inline void admission_clear(struct admissions *t, struct admission *a)
{
    uint32_t number = (uint32_t)(a - t->places), *link = admission_bucket(t, a->session_id);
    while (*link != number)
        link = &t->places[*link].next;
    *link = a->next;
    nonce_set_clear(&a->nonces);
    explicit_bzero(a, sizeof *a);
    a->next = t->free;
    t->free = number;
}

/* A place for a new admission: a free one, or one that has expired; NULL when all hold. */
static inline struct admission *admission_place(struct admissions *t, const uint8_t *session_id, uint64_t now_ns)
{
    for (uint32_t i = 0; t->free == ADMISSION_MAX && i < ADMISSION_MAX; i++)
        if (t->places[i].valid_until_ns <= now_ns && !t->places[i].sessions)
            admission_clear(t, &t->places[i]);
    if (t->free == ADMISSION_MAX)
        return NULL;
    struct admission *a = &t->places[t->free];
    uint32_t number = t->free, *bucket = admission_bucket(t, session_id);
    t->free = a->next;
    *a = (struct admission){.used = 1, .next = *bucket};
    memcpy(a->session_id, session_id, SESSION_ID_BYTES);
    *bucket = number;
    return a;
}

/* Forget everything, nonces included. */
static inline void admissions_clear(struct admissions *t)
{
    for (uint32_t i = 0; i < ADMISSION_MAX; i++)
        nonce_set_clear(&t->places[i].nonces);
    nonce_set_clear(&t->any.nonces);
    explicit_bzero(t, sizeof *t);
    admissions_init(t);
}

/* Use up the nonce of a verified hello. Returns 0, -EALREADY, -ENOSPC or -ENOMEM. */
static inline int admission_use_nonce(struct admissions *t, struct admission *a, const struct hello *h)
{
    if (a->open && !h->index) {
        int error = nonce_set_use(&t->any.nonces, h->nonce, ADMISSION_MAX_OPEN_NONCES);
        if (error)
            return error;
    }
    return nonce_set_use(&a->nonces, h->nonce, ADMISSION_MAX_NONCES);
}

/* The admission of a hello: one that names its session id, or a new one under the open admission's key. */
static inline struct admission *admission_of(struct admissions *t, const uint8_t *hello, size_t size, uint64_t now_ns)
{
    struct hello h;
    memcpy(&h, hello, sizeof h);
    struct admission *a = admission_find(t, h.session_id);
    if (a || h.index || !t->any.used || now_ns >= t->any.valid_until_ns || !hello_verify(hello, size, &t->any.key))
        return a;
    a = admission_place(t, h.session_id, now_ns);
    if (!a)
        return NULL;
    a->open = 1;
    a->kind = h.kind;
    a->key = t->any.key;
    a->valid_until_ns = t->any.valid_until_ns;
    a->max_bytes = t->any.max_bytes;
    return a;
}

#endif
