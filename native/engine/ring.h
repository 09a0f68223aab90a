/* Raw operations, newest kept: one writer that never waits, one reader that learns how many it was too late for.
 *
 *     0        8          12     13      14     16
 *     | t_ns   | value_ns | kind | flags | aux  |      little endian; model.SampleBlock carries these rows as they are
 */
#ifndef CVMPROBE_RING_H
#define CVMPROBE_RING_H

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are sent as they lie in memory");

#define RING_SATURATED 1u /* flag: value_ns was larger than its field */

struct ring_row {
    uint64_t t_ns;
    uint64_t rest; /* value_ns, kind, flags, aux */
};
_Static_assert(sizeof(struct ring_row) == 16, "a row is 16 bytes");

struct ring {
    struct ring_row *rows; /* NULL: keeps nothing */
    uint64_t capacity;     /* a power of two; one row of it is always the writer's */
    uint64_t written;      /* the writer's */
    uint64_t read __attribute__((aligned(64))); /* the reader's */
} __attribute__((aligned(64)));

/* Map and touch room for at least `capacity` rows (0: keep nothing). Returns 0 or -errno. */
static inline int ring_open(struct ring *r, uint64_t capacity)
{
    *r = (struct ring){0};
    if (!capacity)
        return 0;
    uint64_t rows = 2;
    while (rows < capacity + 1)
        rows *= 2;
    void *room = mmap(NULL, rows * sizeof(struct ring_row), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (room == MAP_FAILED)
        return -errno;
    r->rows = (struct ring_row *)room;
    r->capacity = rows;
    return 0;
}

static inline void ring_close(struct ring *r)
{
    if (r->rows)
        munmap(r->rows, r->capacity * sizeof(struct ring_row));
    *r = (struct ring){0};
}

static inline void ring_push(struct ring *r, uint64_t t_ns, uint64_t value_ns, uint8_t kind, uint8_t flags,
                             uint16_t aux)
{
    if (!r->rows)
        return;
    if (__builtin_expect(value_ns > UINT32_MAX, 0)) {
        value_ns = UINT32_MAX;
        flags |= RING_SATURATED;
    }
    uint64_t n = r->written;
    struct ring_row *row = &r->rows[n & (r->capacity - 1)];
    __atomic_thread_fence(__ATOMIC_RELEASE); /* whoever sees this row's words sees that n rows were written */
    __atomic_store_n(&row->t_ns, t_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&row->rest, value_ns | (uint64_t)kind << 32 | (uint64_t)flags << 40 | (uint64_t)aux << 48,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&r->written, n + 1, __ATOMIC_RELEASE);
}

/* Rows that a drain could return now. */
static inline uint64_t ring_pending(const struct ring *r)
{
    uint64_t pending = __atomic_load_n(&r->written, __ATOMIC_ACQUIRE) - r->read;
    return pending < r->capacity ? pending : r->capacity - (r->capacity != 0);
}

/* Move up to `room` of the oldest rows still there to `out`; adds what is gone to *overwritten. Returns rows moved. */
static inline uint64_t ring_drain(struct ring *r, struct ring_row *out, uint64_t room, uint64_t *overwritten)
{
    if (!r->rows)
        return 0;
    uint64_t written = __atomic_load_n(&r->written, __ATOMIC_ACQUIRE);
    uint64_t oldest = written < r->capacity ? 0 : written + 1 - r->capacity;
    uint64_t first = r->read > oldest ? r->read : oldest;
    uint64_t last = written - first > room ? first + room : written;
    for (uint64_t i = first; i < last; i++) {
        const struct ring_row *row = &r->rows[i & (r->capacity - 1)];
        out[i - first].t_ns = __atomic_load_n(&row->t_ns, __ATOMIC_RELAXED);
        out[i - first].rest = __atomic_load_n(&row->rest, __ATOMIC_RELAXED);
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    written = __atomic_load_n(&r->written, __ATOMIC_RELAXED);
    oldest = written < r->capacity ? 0 : written + 1 - r->capacity; /* what the writer reached while we copied */
    uint64_t kept = first > oldest ? first : oldest;
    if (kept > last)
        kept = last;
    if (kept > first)
        __builtin_memmove(out, out + (kept - first), (last - kept) * sizeof(struct ring_row));
    *overwritten += kept - r->read;
    r->read = last;
    return last - kept;
}

#endif
