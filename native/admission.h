/* Whom a responder lets in: session ids with their keys, until when, for how many bytes, and every nonce seen. */
#ifndef CVMPROBE_ADMISSION_H
#define CVMPROBE_ADMISSION_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

#define ADMISSION_MAX 1024
/* A session id that was used this often is worn out: it lets nobody in until it is admitted under a new key. */
#define ADMISSION_MAX_NONCES 16384
#define ADMISSION_MAX_VALID_MS (25u * 3600 * 1000)

struct admission {
    int used;
    uint8_t kind;
    uint8_t session_id[SESSION_ID_BYTES];
    struct session_key key;
    uint64_t valid_until_ns;
    uint64_t max_bytes;
    uint64_t spent_bytes; /* by sessions that have ended */
    uint8_t (*nonces)[SESSION_NONCE_BYTES];
    uint32_t nonce_count;
    uint32_t nonce_room;
};

static inline struct admission *admission_find(struct admission *table, const uint8_t *session_id)
{
    for (unsigned i = 0; i < ADMISSION_MAX; i++)
        if (table[i].used && !memcmp(table[i].session_id, session_id, SESSION_ID_BYTES))
            return &table[i];
    return NULL;
}

static inline void admission_clear(struct admission *a)
{
    free(a->nonces);
    explicit_bzero(a, sizeof *a);
}

/* A place for a new admission: a free one, or one that has expired; NULL when all hold. */
static inline struct admission *admission_place(struct admission *table, uint64_t now_ns)
{
    for (unsigned i = 0; i < ADMISSION_MAX; i++)
        if (!table[i].used)
            return &table[i];
    for (unsigned i = 0; i < ADMISSION_MAX; i++)
        if (table[i].valid_until_ns <= now_ns) {
            admission_clear(&table[i]);
            return &table[i];
        }
    return NULL;
}

/* Use up a nonce. Returns 0 if it is new, -EALREADY if it was used, -ENOSPC or -ENOMEM if it cannot be kept. */
static inline int admission_use_nonce(struct admission *a, const uint8_t *nonce)
{
    for (uint32_t i = 0; i < a->nonce_count; i++)
        if (!memcmp(a->nonces[i], nonce, SESSION_NONCE_BYTES))
            return -EALREADY;
    if (a->nonce_count == ADMISSION_MAX_NONCES)
        return -ENOSPC;
    if (a->nonce_count == a->nonce_room) {
        uint32_t room = a->nonce_room ? a->nonce_room * 2 : 16;
        void *more = realloc(a->nonces, room * sizeof *a->nonces);
        if (!more)
            return -ENOMEM;
        a->nonces = (uint8_t(*)[SESSION_NONCE_BYTES])more;
        a->nonce_room = room;
    }
    memcpy(a->nonces[a->nonce_count++], nonce, SESSION_NONCE_BYTES);
    return 0;
}

#endif
