/* One data socket of a session as the responder serves it: what an engine's serving side sees and counts into. */
#ifndef CVMPROBE_SERVICE_H
#define CVMPROBE_SERVICE_H

#include <errno.h>
#include <stdint.h>

#include "counters.h"
#include "session.h"
#include "worker.h"

#define SERVICE_STREAM_BYTES (128u * 1024) /* asked of one recv: more would not stay in the cache */

/* What the sockets of one session share. */
struct tally {
    uint64_t bytes;    /* atomic: all payload so far, both ways */
    uint64_t limit;    /* atomic: of bytes; grows when the admission is renewed */
    uint64_t first_ns; /* atomic: when the session's first payload byte was there; 0: not yet */
    uint32_t running;  /* atomic: falls when the session is cut */
} __attribute__((aligned(64)));

struct session;

struct service {
    struct worker worker; /* first: this is its thread */
    struct session *session;
    const struct session_terms *terms;
    struct tally *tally;
    uint8_t *buffer; /* service_buffer_bytes() of it, touched */
    int fd;
    uint64_t counts[RESULT_COUNTS]; /* this socket's part of the results */
    uint64_t *bins; /* session_bins() of them for each series; unused where that is 0 */
    uint32_t bin_count;
    uint32_t bin;
    uint64_t bin_end_ns; /* 0 until the first payload byte */
};

/* Serve until the initiator's FIN. Returns 0 for that, or -errno.
 * A kind that serves all sockets in one thread is given the first of terms->sockets services in a row, and counts there. */
typedef int (*service_loop)(struct service *);

/* Room for one message, or for as much of a stream as is worth one call. */
static inline size_t service_buffer_bytes(const struct session_terms *t)
{
    if (!t->response_bytes)
        return SERVICE_STREAM_BYTES;
    return t->request_bytes > t->response_bytes ? t->request_bytes : t->response_bytes;
}

static inline int service_running(const struct service *s)
{
    return (int)__atomic_load_n(&s->tally->running, __ATOMIC_RELAXED);
}

/* End of bin `bin` on this clock; the last one is open. */
static inline uint64_t service_bin_end(const struct service *s, uint64_t first_ns, uint32_t bin)
{
    if (bin + 1 >= s->bin_count)
        return UINT64_MAX;
    uint64_t interval = s->terms->interval_ms * UINT64_C(1000000);
    uint64_t deadline = first_ns + s->terms->duration_ms * UINT64_C(1000000);
    uint64_t end = first_ns + (bin + 1) * interval;
    return end < deadline ? end : deadline;
}

/* The session's first payload byte is the one whose thread says so first. */
static inline uint64_t service_first_ns(struct service *s, uint64_t now_ns)
{
    uint64_t none = 0;
    return __atomic_compare_exchange_n(&s->tally->first_ns, &none, now_ns, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
               ? now_ns
               : none;
}

/* The bin that this moment falls into. */
static inline uint64_t *service_bin(struct service *s, uint64_t now_ns)
{
    if (__builtin_expect(now_ns >= s->bin_end_ns, 0)) {
        uint64_t first_ns = service_first_ns(s, now_ns);
        while ((s->bin_end_ns = service_bin_end(s, first_ns, s->bin)) <= now_ns)
            s->bin++;
    }
    return s->bins + s->bin;
}

/* Charge the session's cap. Returns 0, or -EDQUOT once it is passed. */
static inline int service_charge(struct service *s, uint64_t size)
{
    uint64_t total = __atomic_add_fetch(&s->tally->bytes, size, __ATOMIC_RELAXED);
    return total > __atomic_load_n(&s->tally->limit, __ATOMIC_RELAXED) ? -EDQUOT : 0;
}

/* Count payload that had arrived at now_ns (round trips: and was answered). Returns 0, or -EDQUOT past the cap. */
static inline int service_count(struct service *s, uint64_t size, uint64_t operations, uint64_t now_ns)
{
    uint64_t *bin = service_bin(s, now_ns);
    if (s->bin_count) {
        bin[SERIES_BYTES * s->bin_count] += size;
        bin[SERIES_OPERATIONS * s->bin_count] += operations;
    }
    s->counts[RESULT_BYTES] += size;
    s->counts[RESULT_OPERATIONS] += operations;
    s->counts[RESULT_LAST_NS] = now_ns;
    return service_charge(s, size);
}

/* Count payload that the kernel had taken at now_ns. Returns 0, or -EDQUOT past the cap. */
static inline int service_count_sent(struct service *s, uint64_t size, uint64_t operations, uint64_t now_ns)
{
    uint64_t *bin = service_bin(s, now_ns);
    if (s->bin_count) {
        bin[SERIES_SENT_BYTES * s->bin_count] += size;
        bin[SERIES_SENT_OPERATIONS * s->bin_count] += operations;
    }
    s->counts[RESULT_SENT_BYTES] += size;
    s->counts[RESULT_SENT_OPERATIONS] += operations;
    return service_charge(s, size);
}

#endif
