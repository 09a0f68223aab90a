/* Every nonce that was used under a key: a hash table with a bound. Nonces are random, so they are their own hash. */
#ifndef CVMPROBE_NONCE_SET_H
#define CVMPROBE_NONCE_SET_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NONCE_BYTES 16

struct nonce_set {
    uint8_t (*slots)[NONCE_BYTES]; /* all zero: free */
    uint32_t count;
    uint32_t room; /* 0 or a power of two, at least twice the count */
};

/* Where this nonce is, or would be. */
static inline uint8_t *nonce_slot(const struct nonce_set *s, const uint8_t *nonce)
{
    static const uint8_t free_slot[NONCE_BYTES];
    uint32_t at;
    memcpy(&at, nonce, sizeof at);
    while (memcmp(s->slots[at &= s->room - 1], free_slot, NONCE_BYTES) && memcmp(s->slots[at], nonce, NONCE_BYTES))
        at++;
    return s->slots[at];
}

static inline int nonce_set_grow(struct nonce_set *s)
{
    struct nonce_set larger = {.count = s->count, .room = s->room ? s->room * 2 : 16};
    larger.slots = (uint8_t(*)[NONCE_BYTES])calloc(larger.room, NONCE_BYTES);
    if (!larger.slots)
        return -ENOMEM;
    for (uint32_t i = 0; i < s->room; i++)
        memcpy(nonce_slot(&larger, s->slots[i]), s->slots[i], NONCE_BYTES);
    free(s->slots);
    *s = larger;
    return 0;
}

/* Use up a nonce. Returns 0 if it is new, -EALREADY if it was used (or is zero, which none is), -ENOSPC once `most`
 * are kept, -ENOMEM if this one cannot be. */
static inline int nonce_set_use(struct nonce_set *s, const uint8_t *nonce, uint32_t most)
{
    if (s->room && !memcmp(nonce_slot(s, nonce), nonce, NONCE_BYTES))
        return -EALREADY;
    if (s->count == most)
        return -ENOSPC;
    if (s->count * 2 >= s->room && nonce_set_grow(s))
        return -ENOMEM;
    uint8_t *slot = nonce_slot(s, nonce);
    memcpy(slot, nonce, NONCE_BYTES);
    s->count++;
    return memcmp(slot, (const uint8_t[NONCE_BYTES]){0}, NONCE_BYTES) ? 0 : -EALREADY;
}

static inline void nonce_set_clear(struct nonce_set *s)
{
    free(s->slots);
    *s = (struct nonce_set){0};
}

#endif
