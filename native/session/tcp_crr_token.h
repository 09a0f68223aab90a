/* What opens every connection of a tcp_crr session instead of a hello: a token of 16 bytes, the first of the request.
 *
 *     0      4                16                request_bytes
 *     | CVMC | mac, shortened | any payload ... |
 *
 * The mac is HMAC-SHA256 under the session's key, of "tcp_crr" and the control hello's mac, cut to 96 bits. Both ends
 * compute it once, so it costs a connection one comparison. It holds for as long as the session runs, and buys nothing
 * but its answer: who replays it spends the session's budget, and the ends' totals differ by that (flag `cut`).
 */
#ifndef CVMPROBE_TCP_CRR_TOKEN_H
#define CVMPROBE_TCP_CRR_TOKEN_H

#include <stdint.h>
#include <string.h>

#include "session/session.h"

#define TCP_CRR_TOKEN_BYTES SESSION_MIN_TOKEN

static inline void tcp_crr_token(const struct session_key *k, const struct hello *control,
                                 uint8_t token[TCP_CRR_TOKEN_BYTES])
{
    uint8_t mac[SHA256_BYTES];
    struct hmac m;
    hmac_init(&m, k->bytes, k->size);
    hmac_update(&m, "tcp_crr", 7);
    hmac_update(&m, control->mac, sizeof control->mac);
    hmac_final(&m, mac);
    memcpy(token, "CVMC", 4);
    memcpy(token + 4, mac, TCP_CRR_TOKEN_BYTES - 4);
}

/* Whether the first `received` bytes of a socket may be those of a token. */
static inline int tcp_crr_opens(const uint8_t *data, size_t received)
{
    return !memcmp(data, "CVMC", received < 4 ? received : 4);
}

/* Whether two tokens are the same, in a time that does not tell where they differ. */
static inline int tcp_crr_equal(const uint8_t *a, const uint8_t *b)
{
    unsigned different = 0;
    for (unsigned i = 0; i < TCP_CRR_TOKEN_BYTES; i++)
        different |= a[i] ^ b[i];
    return !different;
}

#endif
