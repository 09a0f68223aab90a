/* Which datagrams of a numbered flow have arrived: each counted once, whatever order they come in.
 *
 *     arrived  0 1 2 4 3 3 7        next 8, unique 6, reordered 1 (the 3) by an extent of 2, duplicates 1
 *
 * A bitmap remembers the last SEQUENCE_WINDOW numbers, in a ring. What comes later than that can no longer be told from
 * a duplicate: it is counted as stale, and stays lost. So is a number that no sender can have reached by now.
 */
#ifndef CVMPROBE_UDP_SEQUENCE_H
#define CVMPROBE_UDP_SEQUENCE_H

#include <stdint.h>
#include <string.h>

#define SEQUENCE_WINDOW (UINT64_C(1) << 18) /* 32 KiB of bitmap */
#define SEQUENCE_WORDS (SEQUENCE_WINDOW / 64)
#define SEQUENCE_KNOWN (SEQUENCE_WINDOW - 64) /* behind the foremost; the word of the oldest is the newest's, too */
#define SEQUENCE_MAX_JUMP (UINT64_C(1) << 32)

struct udp_sequence {
    uint64_t next; /* one more than the foremost that arrived */
    uint64_t unique;
    uint64_t duplicates;
    uint64_t reordered; /* came after a greater one */
    uint64_t reorder_extent; /* the farthest that one was behind the foremost */
    uint64_t stale;
    uint64_t arrived[SEQUENCE_WORDS]; /* bit of every number in next - SEQUENCE_WINDOW .. next - 1 */
};

static inline uint64_t *sequence_word(struct udp_sequence *s, uint64_t number)
{
    return &s->arrived[number / 64 % SEQUENCE_WORDS];
}

static inline uint64_t sequence_bit(uint64_t number)
{
    return UINT64_C(1) << number % 64;
}

/* Make `number` the foremost; none of those it jumped over has arrived. */
static inline void sequence_advance(struct udp_sequence *s, uint64_t number)
{
    if (number - s->next >= SEQUENCE_WINDOW)
        memset(s->arrived, 0, sizeof s->arrived);
    else
        for (uint64_t first = (s->next + 63) / 64 * 64; first <= number; first += 64)
            *sequence_word(s, first) = 0;
    *sequence_word(s, number) |= sequence_bit(number);
    s->next = number + 1;
    s->unique++;
}

/* One that is not the foremost: late, a duplicate, or too late to tell. */
static inline void sequence_behind(struct udp_sequence *s, uint64_t number)
{
    uint64_t extent = s->next - 1 - number;
    if (extent >= SEQUENCE_KNOWN) {
        s->stale++;
    } else if (*sequence_word(s, number) & sequence_bit(number)) {
        s->duplicates++;
    } else {
        *sequence_word(s, number) |= sequence_bit(number);
        s->unique++;
        s->reordered++;
        if (extent > s->reorder_extent)
            s->reorder_extent = extent;
    }
}

/* Count one datagram that arrived under this number. Returns how many numbers it jumped over. */
static inline uint64_t sequence_take(struct udp_sequence *s, uint64_t number)
{
    uint64_t jumped = number - s->next;
    if (__builtin_expect(number < s->next, 0)) {
        sequence_behind(s, number);
        return 0;
    }
    if (jumped >= SEQUENCE_MAX_JUMP) {
        s->stale++;
        return 0;
    }
    sequence_advance(s, number);
    return jumped;
}

/* Interarrival jitter as RFC 3550 A.8 has it, in ns; clocks of both ends may be apart, for only differences count. */
struct udp_jitter {
    uint64_t sixteenfold; /* the smoothed deviation, times 16 */
    uint32_t transit;     /* of the one before, modulo 2^32 */
    uint32_t known;
};

/* One arrival: when it was sent and received, ns modulo 2^32 of either clock. */
static inline void jitter_take(struct udp_jitter *j, uint32_t sent, uint32_t received)
{
    uint32_t transit = received - sent;
    int32_t change = (int32_t)(transit - j->transit);
    uint64_t deviation = change < 0 ? (uint64_t)-(int64_t)change : (uint64_t)change;
    if (j->known)
        j->sixteenfold += deviation - ((j->sixteenfold + 8) >> 4);
    j->transit = transit;
    j->known = 1;
}

#endif
