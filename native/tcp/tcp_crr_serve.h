/* The serving side of tcp_crr beside the responder's own thread, which answers: the data socket that tells of the end. */
#ifndef CVMPROBE_TCP_CRR_SERVE_H
#define CVMPROBE_TCP_CRR_SERVE_H

#include "session/service.h"

/* Wait for the initiator's FIN: it comes when its last connection was closed. Returns 0 for that, else -errno. */
static inline int tcp_crr_serve(struct service *v)
{
    uint64_t whole = (uint64_t)v->terms->request_bytes + v->terms->response_bytes;
    ssize_t n;
    do
        n = recv(v->fd, v->buffer, 1, 0);
    while (n < 0 && errno == EINTR);
    if (n)
        return n < 0 ? -errno : -EPROTO;
    v->counts[RESULT_BYTES] = __atomic_load_n(&v->tally->bytes, __ATOMIC_RELAXED);
    v->counts[RESULT_OPERATIONS] = v->counts[RESULT_BYTES] / whole;
    return service_running(v) ? 0 : -EPROTO;
}

#endif
