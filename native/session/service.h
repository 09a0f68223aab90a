/* One data socket of a session as the responder serves it: what an engine's serving side sees and counts into.
 *
 *     TCP   recv … recv ── 0: the initiator's FIN, or the session was cut
 *     UDP   recv … recv ── 0: the initiator has ended, or the session was cut; from then on recv does not sleep
 *           ── service_drains: recv without sleeping, 1 ms, … until quiet ── over
 *
 * A UDP socket is connected to the initiator. Before the first datagram its errors may still tell of a try that the
 * initiator has given up (ECONNREFUSED): such a one is counted, and ends nothing; the control socket tells of the end.
 */
#ifndef CVMPROBE_SERVICE_H
#define CVMPROBE_SERVICE_H

#include <errno.h>
#include <stdint.h>

#include "engine/budget.h"
#include "engine/counters.h"
#include "session/intervals.h"
#include "session/udp_datagram.h"
#include "engine/worker.h"

#define SERVICE_STREAM_BYTES (128u * 1024) /* asked of one recv: more would not stay in the cache */
#define SERVICE_QUIET_NS UINT64_C(200000000)  /* so long without a datagram after the initiator's end: no more comes */
#define SERVICE_DRAIN_NS UINT64_C(1000000000) /* so long after it: what has not come is lost */
#define SERVICE_LOOK_NS UINT64_C(1000000)
#define SERVICE_MESSAGE_BYTES (16u * 1024) /* small messages may come in together */

/* What the sockets of one session share. */
struct tally {
    uint64_t limit;         /* atomic: of bytes; grows when the admission is renewed */
    uint64_t first_ns;      /* atomic: when the session's first payload byte had come; 0: not yet */
    uint64_t first_sent_ns; /* atomic: when its first payload byte was sent; 0: not yet */
    uint64_t ended_ns;      /* atomic: when the initiator had sent its last datagram (UDP kinds); 0: not yet */
    uint32_t running;       /* atomic: falls when the session is cut */
    uint64_t bytes __attribute__((aligned(64))); /* atomic, written often: all payload so far, both ways */
    struct budget budget __attribute__((aligned(64))); /* of the senders here */
} __attribute__((aligned(64)));

struct session;

struct service {
    struct worker worker; /* first: this is its thread */
    struct session *session;
    const struct session_terms *terms;
    struct tally *tally;
    uint8_t *buffer; /* service_buffer_bytes() of it, touched */
    int fd;
    uint32_t tag; /* of its datagrams */
    uint64_t counts[RESULT_COUNTS]; /* this socket's part of the results */
    uint64_t *bins; /* intervals.count of them for each series; unused where that is 0 */
    struct intervals intervals;
};

/* Serve until the initiator's FIN. Returns 0 for that, or -errno.
 * A kind that serves all sockets in one thread is given the first of terms->sockets services in a row, and counts there. */
typedef int (*service_loop)(struct service *);

/* Room for one message, or for as much of a stream as is worth one call. */
static inline size_t service_buffer_bytes(const struct session_terms *t)
{
    uint32_t least = t->response_bytes ? SERVICE_MESSAGE_BYTES : SERVICE_STREAM_BYTES;
    uint32_t larger = t->request_bytes > t->response_bytes ? t->request_bytes : t->response_bytes;
    return larger > least ? larger : least;
}

static inline int service_running(const struct service *s)
{
    return (int)__atomic_load_n(&s->tally->running, __ATOMIC_RELAXED);
}

/* Whether the initiator has sent its last datagram: what arrives from now on is late. */
static inline int service_ended(const struct service *s)
{
    return __atomic_load_n(&s->tally->ended_ns, __ATOMIC_ACQUIRE) != 0;
}

/* Wait a moment for late datagrams, the last of which arrived at last_ns. Returns 1 to look again, 0 when it is over. */
static inline int service_drains(const struct service *s, uint64_t last_ns)
{
    uint64_t now_ns = clock_now_ns(), ended_ns = __atomic_load_n(&s->tally->ended_ns, __ATOMIC_ACQUIRE);
    if (!service_running(s) || now_ns - ended_ns >= SERVICE_DRAIN_NS)
        return 0;
    if (now_ns - ended_ns >= SERVICE_QUIET_NS && now_ns - last_ns >= SERVICE_QUIET_NS)
        return 0;
    clock_sleep_until(now_ns + SERVICE_LOOK_NS);
    return 1;
}

_Static_assert(SERIES_OPERATIONS == SERIES_BYTES + 1 && SERIES_SENT_OPERATIONS == SERIES_SENT_BYTES + 1, "in pairs");

/* Count into the bins of two series, from `bytes` on. */
static inline void service_bin(struct service *s, enum session_series bytes, uint64_t *first_ns, uint64_t size,
                               uint64_t operations, uint64_t now_ns)
{
    uint64_t *bin = s->bins + intervals_at(&s->intervals, first_ns, now_ns) + bytes * s->intervals.count;
    if (!s->intervals.count)
        return;
    bin[0] += size;
    bin[s->intervals.count] += operations;
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
    service_bin(s, SERIES_BYTES, &s->tally->first_ns, size, operations, now_ns);
    s->counts[RESULT_BYTES] += size;
    s->counts[RESULT_OPERATIONS] += operations;
    s->counts[RESULT_LAST_NS] = now_ns;
    return service_charge(s, size);
}

/* Count payload that the kernel had taken at now_ns. Returns 0, or -EDQUOT past the cap. */
static inline int service_count_sent(struct service *s, uint64_t size, uint64_t operations, uint64_t now_ns)
{
    service_bin(s, SERIES_SENT_BYTES, &s->tally->first_sent_ns, size, operations, now_ns);
    s->counts[RESULT_SENT_BYTES] += size;
    s->counts[RESULT_SENT_OPERATIONS] += operations;
    return service_charge(s, size);
}

#endif
