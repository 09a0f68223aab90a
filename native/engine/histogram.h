/* Base-2 exponential histogram, schema 8: recorded by one thread, read by any, never blocked.
 *
 *     value   0     1      2^(1/256) … 2^37 ns          above
 *     kept in zero  [0]    [1] … [9472]                  overflow
 *
 * Bucket i holds the integers in (2^((i-1)/256), 2^(i/256)]. Buckets only grow; a reader copies them one by one.
 * The sums are wider than one store, so a sequence number (odd while they change) tells a reader to look again.
 */
#ifndef CVMPROBE_HISTOGRAM_H
#define CVMPROBE_HISTOGRAM_H

#include <errno.h>
#include <sched.h>
#include <stdint.h>

#include "engine/counters.h"
#include "engine/histogram_bounds.h"

#define HISTOGRAM_SCHEMA 8
#define HISTOGRAM_BUCKETS 9473
#define HISTOGRAM_LARGEST (UINT64_C(1) << 37)

struct histogram {
    uint64_t sequence;
    uint64_t sum;
    uint64_t squares_low;
    uint64_t squares_high;
    uint64_t minimum; /* UINT64_MAX while empty */
    uint64_t maximum;
    uint64_t zero;
    uint64_t overflow;
    uint64_t buckets[HISTOGRAM_BUCKETS];
} __attribute__((aligned(64)));

/* Zeroed memory needs this before its first record. */
static inline void histogram_init(struct histogram *h)
{
    *h = (struct histogram){.minimum = UINT64_MAX};
}

/* Bucket of a value in [1, 2^37]. */
static inline unsigned histogram_index(uint64_t value)
{
    unsigned shift = (unsigned)__builtin_clzll(value);
    uint64_t mantissa = value << shift;
    unsigned sub = HISTOGRAM_GUESS[(mantissa >> 54) & 511];
    sub += mantissa > HISTOGRAM_BOUNDS[sub];
    return (63 - shift) * 256 + sub;
}

static inline uint64_t *histogram_place(struct histogram *h, uint64_t value)
{
    if (__builtin_expect(value == 0, 0))
        return &h->zero;
    if (__builtin_expect(value > HISTOGRAM_LARGEST, 0))
        return &h->overflow;
    return &h->buckets[histogram_index(value)];
}

static inline void histogram_widen(struct histogram *h, uint64_t minimum, uint64_t maximum)
{
    if (minimum < h->minimum)
        counter_set(&h->minimum, minimum);
    if (maximum > h->maximum)
        counter_set(&h->maximum, maximum);
}

/* Add to the three words of the sums as one change. */
static inline void histogram_add_sums(struct histogram *h, uint64_t sum, unsigned __int128 squares)
{
    unsigned __int128 total = ((unsigned __int128)h->squares_high << 64 | h->squares_low) + squares;
    uint64_t sequence = h->sequence;
    __atomic_store_n(&h->sequence, sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    counter_add(&h->sum, sum);
    counter_set(&h->squares_low, (uint64_t)total);
    counter_set(&h->squares_high, (uint64_t)(total >> 64));
    __atomic_store_n(&h->sequence, sequence + 2, __ATOMIC_RELEASE);
}

/* The count comes last, so that whoever sees it sees sums and extremes that cover it. */
static inline void histogram_record(struct histogram *h, uint64_t value_ns)
{
    uint64_t *place = histogram_place(h, value_ns);
    histogram_widen(h, value_ns, value_ns);
    histogram_add_sums(h, value_ns, (unsigned __int128)value_ns * value_ns);
    __atomic_store_n(place, *place + 1, __ATOMIC_RELEASE);
}

/* Add the sums of `from`, which may be written meanwhile, to `into`, which nobody else touches. */
static inline void histogram_add_sums_of(struct histogram *into, const struct histogram *from)
{
    uint64_t before, after, sum, low, high;
    unsigned tries = 0;
    do {
        before = __atomic_load_n(&from->sequence, __ATOMIC_ACQUIRE);
        sum = counter_read(&from->sum);
        low = counter_read(&from->squares_low);
        high = counter_read(&from->squares_high);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        after = __atomic_load_n(&from->sequence, __ATOMIC_RELAXED);
        if (++tries % 1024 == 0)
            sched_yield(); /* the writer lost its CPU between the two stores */
    } while (before != after || before & 1);
    histogram_add_sums(into, sum, (unsigned __int128)high << 64 | low);
}

/* Add all that `from` holds now. Counts first: sums and extremes read later cover them. */
static inline void histogram_add(struct histogram *into, const struct histogram *from)
{
    into->zero += __atomic_load_n(&from->zero, __ATOMIC_ACQUIRE);
    into->overflow += __atomic_load_n(&from->overflow, __ATOMIC_ACQUIRE);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += __atomic_load_n(&from->buckets[i], __ATOMIC_ACQUIRE);
    histogram_add_sums_of(into, from);
    histogram_widen(into, counter_read(&from->minimum), counter_read(&from->maximum));
}

/* The functions below read histograms that nobody writes: copies. */

static inline uint64_t histogram_count(const struct histogram *h)
{
    uint64_t count = h->zero + h->overflow;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        count += h->buckets[i];
    return count;
}

/* Largest integer that bucket i holds. */
static inline uint64_t histogram_upper(unsigned i)
{
    return HISTOGRAM_BOUNDS[i % 256] >> (63 - i / 256);
}

static inline uint64_t histogram_lowest(const struct histogram *h)
{
    if (h->zero)
        return 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        if (h->buckets[i])
            return i ? histogram_upper(i - 1) + 1 : 1;
    return HISTOGRAM_LARGEST + 1;
}

static inline uint64_t histogram_highest(const struct histogram *h)
{
    if (h->overflow)
        return UINT64_MAX;
    for (unsigned i = HISTOGRAM_BUCKETS; i-- > 0;)
        if (h->buckets[i])
            return histogram_upper(i);
    return 0;
}

/* Extremes of what came between two copies: exact where they are new extremes of the whole, else the bucket's. */
static inline void histogram_set_extremes(struct histogram *h, const struct histogram *now,
                                          const struct histogram *then)
{
    uint64_t lowest = histogram_lowest(h), highest = histogram_highest(h);
    h->minimum = now->minimum < then->minimum || lowest < now->minimum ? now->minimum : lowest;
    h->maximum = now->maximum > then->maximum || highest > now->maximum ? now->maximum : highest;
}

/* Put into `rest`, which is new, what `now` has more than `then`, an earlier copy of the same. Returns 0 or -EINVAL. */
static inline int histogram_subtract(struct histogram *rest, const struct histogram *now, const struct histogram *then)
{
    if (now->zero < then->zero || now->overflow < then->overflow)
        return -EINVAL;
    rest->zero = now->zero - then->zero;
    rest->overflow = now->overflow - then->overflow;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (now->buckets[i] < then->buckets[i])
            return -EINVAL;
        rest->buckets[i] = now->buckets[i] - then->buckets[i];
    }
    unsigned borrow = now->squares_low < then->squares_low;
    rest->sum = now->sum - then->sum;
    rest->squares_low = now->squares_low - then->squares_low;
    rest->squares_high = now->squares_high - then->squares_high - borrow;
    if (histogram_count(rest))
        histogram_set_extremes(rest, now, then);
    return 0;
}

#endif
