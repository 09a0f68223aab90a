/* Datagram requests under way: by sequence, each with the same patience, so that a lost one holds up nobody.
 *
 *     begin ──► WAITING ── response ──► ANSWERED ── again ──► a duplicate
 *                  └ not in time ──► EXPIRED ── response ──► late, ANSWERED
 *
 * FLIGHT_SLOTS of them are remembered; one that many requests later is expired whatever its patience.
 */
#ifndef CVMPROBE_FLIGHT_H
#define CVMPROBE_FLIGHT_H

#include <stdint.h>

#define FLIGHT_SLOTS (UINT64_C(1) << 16)

enum flight_state { FLIGHT_FREE, FLIGHT_WAITING, FLIGHT_ANSWERED, FLIGHT_EXPIRED };
enum flight_arrival { FLIGHT_UNKNOWN, FLIGHT_IN_TIME, FLIGHT_LATE, FLIGHT_DUPLICATE };

struct flight_slot {
    uint64_t sequence;
    uint64_t intended_ns;
    uint64_t began_ns;
    uint32_t socket;
    uint32_t state;
};

struct flight {
    struct flight_slot *slots; /* FLIGHT_SLOTS of them, zero at first */
    uint64_t patience_ns;
    uint64_t next; /* sequence of the next request; all before `oldest` are not waiting any more */
    uint64_t oldest;
    uint64_t waiting;
};

static inline struct flight_slot *flight_slot(const struct flight *f, uint64_t sequence)
{
    return &f->slots[sequence % FLIGHT_SLOTS];
}

/* Whether the oldest request may still wait in the slot of the next one: see flight_expire. */
static inline int flight_is_full(const struct flight *f)
{
    return f->next - f->oldest >= FLIGHT_SLOTS;
}

/* Note a request, unless it is full. */
static inline uint64_t flight_begin(struct flight *f, uint32_t socket, uint64_t intended_ns, uint64_t began_ns)
{
    *flight_slot(f, f->next) = (struct flight_slot){f->next, intended_ns, began_ns, socket, FLIGHT_WAITING};
    f->waiting++;
    return f->next++;
}

/* A response has arrived; *slot is then its request's. */
static inline enum flight_arrival flight_land(struct flight *f, uint64_t sequence, struct flight_slot **slot)
{
    struct flight_slot *s = *slot = flight_slot(f, sequence);
    uint32_t before = s->state;
    if (before == FLIGHT_FREE || s->sequence != sequence)
        return FLIGHT_UNKNOWN;
    s->state = FLIGHT_ANSWERED;
    f->waiting -= before == FLIGHT_WAITING;
    return before == FLIGHT_WAITING ? FLIGHT_IN_TIME : before == FLIGHT_EXPIRED ? FLIGHT_LATE : FLIGHT_DUPLICATE;
}

/* The next request whose patience has ended by now, or that is in the way of the next one; NULL: there is none. */
static inline struct flight_slot *flight_expire(struct flight *f, uint64_t now_ns)
{
    for (; f->oldest < f->next; f->oldest++) {
        struct flight_slot *s = flight_slot(f, f->oldest);
        if (s->state != FLIGHT_WAITING)
            continue;
        if (now_ns - s->began_ns < f->patience_ns && !flight_is_full(f))
            return NULL;
        s->state = FLIGHT_EXPIRED;
        f->waiting--;
        return s;
    }
    return NULL;
}

#endif
