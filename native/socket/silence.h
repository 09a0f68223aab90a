/* What is observed of a peer that says nothing: whether its kernel still acknowledges, or nothing comes back at all.
 *
 *     no ACK              bytes are under way, and none of them is acknowledged            link, address or host gone
 *     ACK without reply   all is acknowledged, but no response comes, or no room is made   the program there stands still
 *
 * Only what lasts longer than SILENCE_NS counts, and only its time beyond that. An error (refused, reset, unreachable)
 * is no silence: it ends the call that meets it.
 */
#ifndef CVMPROBE_SILENCE_H
#define CVMPROBE_SILENCE_H

#include <linux/tcp.h>
#include <stddef.h>

#include "engine/counters.h"

#define SILENCE_NS UINT64_C(500000000)

struct silence {
    uint64_t no_ack_ns;     /* these two only grow; read by any */
    uint64_t unanswered_ns;
    uint64_t awaiting_since_ns; /* set by the owner: of the oldest request without a response; 0: there is none */
    uint64_t looked_ns;
    uint64_t acked_bytes; /* at that look */
    uint64_t stuck_ns;    /* as long as that has not grown although more was to be acknowledged */
};

/* Look at a TCP_INFO of `size` bytes; some ten times a second. */
static inline void silence_look(struct silence *s, const struct tcp_info *info, size_t size, uint64_t now_ns)
{
    uint64_t since_ns = s->looked_ns ? now_ns - s->looked_ns : 0;
    if (size < offsetof(struct tcp_info, tcpi_notsent_bytes) + sizeof info->tcpi_notsent_bytes)
        return; /* this kernel does not tell */
    int to_acknowledge = info->tcpi_unacked || info->tcpi_notsent_bytes;
    s->stuck_ns = to_acknowledge && info->tcpi_bytes_acked == s->acked_bytes ? s->stuck_ns + since_ns : 0;
    s->acked_bytes = info->tcpi_bytes_acked;
    s->looked_ns = now_ns;
    int stuck = s->stuck_ns > SILENCE_NS;
    int unanswered = s->awaiting_since_ns && now_ns > s->awaiting_since_ns + SILENCE_NS && !info->tcpi_unacked;
    if (stuck && info->tcpi_unacked)
        counter_add(&s->no_ack_ns, since_ns);
    else if (stuck || unanswered)
        counter_add(&s->unanswered_ns, since_ns);
}

#endif
