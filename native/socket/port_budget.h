/* How many connections may be opened in a while, so that TIME_WAIT does not eat the range of ephemeral ports.
 *
 * Who closes first keeps (address, port) of both ends for 60 s (TIME_WAIT). A connection from the same port meanwhile
 * may be refused, or be answered only when its SYN is sent again: a figure of the kernel's table, not of the path.
 */
#ifndef CVMPROBE_PORT_BUDGET_H
#define CVMPROBE_PORT_BUDGET_H

#include <stdint.h>

#define PORT_BUDGET_SECONDS 61 /* TIME_WAIT, and the second that has begun */
#define PORT_BUDGET_SHARE 0.9  /* of the range: others connect, too */

struct port_budget {
    uint64_t limit; /* connections in any 60 s */
    uint64_t used;
    uint64_t second;
    uint32_t opened[PORT_BUDGET_SECONDS];
};

/* A range of so many ports is all there is. */
static inline void port_budget_init(struct port_budget *b, uint64_t ports)
{
    *b = (struct port_budget){.limit = (uint64_t)((double)ports * PORT_BUDGET_SHARE)};
}

/* Whether one more connection may be opened now; counts it. */
static inline int port_budget_take(struct port_budget *b, uint64_t now_ns)
{
    uint64_t second = now_ns / UINT64_C(1000000000);
    if (second - b->second > PORT_BUDGET_SECONDS)
        b->second = second - PORT_BUDGET_SECONDS;
    while (b->second < second) {
        uint32_t *oldest = &b->opened[++b->second % PORT_BUDGET_SECONDS];
        b->used -= *oldest;
        *oldest = 0;
    }
    if (b->used >= b->limit)
        return 0;
    b->opened[second % PORT_BUDGET_SECONDS]++;
    b->used++;
    return 1;
}

#endif
