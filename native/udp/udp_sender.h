/* Numbered datagrams out of one connected UDP socket, many to a call where the kernel takes them so.
 *
 *     GSO   one send of up to 64 datagrams, which the kernel or the device cuts (UDP_SEGMENT)
 *     MMSG  one sendmmsg of up to 64 messages
 *     NONE  one send for each datagram
 *
 * The first that works is used, found by sending; a named one is used or fails. Only what the kernel took has a number:
 * a datagram that it refused (a full queue, a filter of this node) is counted as refused, and its number is used again.
 * All datagrams of a call carry the time that the call began.
 */
#ifndef CVMPROBE_UDP_SENDER_H
#define CVMPROBE_UDP_SENDER_H

#include <errno.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "engine/budget.h"
#include "engine/pace.h"
#include "session/udp_datagram.h"
#include "socket/udp_path.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

#define SENDER_BATCH 64u
#define SENDER_ROOM_BYTES (128u * 1024) /* of a batch, unless one datagram is longer */
#define SENDER_GSO_BYTES 65000u         /* with its headers the kernel's one packet has less than 64 KiB */
#define SENDER_BURST_NS UINT64_C(1000000) /* at a rate, no call sends more than is due in so long */
#define SENDER_PATIENCE_NS UINT64_C(1500000000) /* so that what the path says is told within 2 s */

struct udp_sender {
    int fd;
    uint32_t tag;
    uint32_t size;
    uint32_t batch;
    int named;
    uint64_t offload; /* enum session_offload, in use; never BEST */
    uint64_t sequence;   /* of the next datagram: how many the kernel took */
    uint64_t sent_bytes; /* of their payload */
    uint64_t refused;    /* datagrams that it did not take, for good */
    uint64_t calls;
    uint64_t reserved; /* bytes of the budget, those sent included */
    uint64_t stuck_ns; /* since when the path has taken nothing; 0: it does */
    uint64_t rate_bytes_per_s;
    struct pace pace;
    struct udp_path path;
    uint8_t *room; /* sender_room_bytes() of it */
    struct iovec pieces[SENDER_BATCH];
    struct mmsghdr messages[SENDER_BATCH];
};

static inline size_t sender_room_bytes(uint32_t size)
{
    size_t batch = (size_t)size * SENDER_BATCH;
    return size > SENDER_ROOM_BYTES ? size : batch > SENDER_ROOM_BYTES ? SENDER_ROOM_BYTES : batch;
}

/* Send in this way from now on, as many datagrams to a call as it and the rate allow. Returns 0 or -errno. */
static inline int sender_use(struct udp_sender *s, uint32_t offload)
{
    int segment = offload == OFFLOAD_GSO ? (int)s->size : 0;
    if (setsockopt(s->fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) && segment) {
        if (s->named)
            return -errno;
        offload = OFFLOAD_MMSG;
    }
    uint64_t batch = offload == OFFLOAD_GSO ? SENDER_GSO_BYTES / s->size : sender_room_bytes(s->size) / s->size;
    uint64_t due = s->rate_bytes_per_s / (1000000000u / SENDER_BURST_NS) / s->size;
    if (s->rate_bytes_per_s && due < batch)
        batch = due;
    s->batch = offload == OFFLOAD_NONE || !batch ? 1 : batch < SENDER_BATCH ? (uint32_t)batch : SENDER_BATCH;
    counter_set(&s->offload, offload);
    return 0;
}

/* A sender with its room, touched; NULL: no memory. Free it with free(). */
static inline struct udp_sender *sender_new(const struct session_terms *t)
{
    size_t room = sender_room_bytes(t->request_bytes);
    struct udp_sender *s = (struct udp_sender *)malloc(sizeof *s + room);
    if (!s)
        return NULL;
    memset(s, 0, sizeof *s + room);
    s->room = (uint8_t *)(s + 1);
    s->size = t->request_bytes;
    s->named = t->offload != OFFLOAD_BEST;
    s->rate_bytes_per_s = t->rate_bytes_per_s;
    return s;
}

/* Random bytes, so that nothing on the way can compress them. Returns 0 or -errno. */
static inline int sender_fill(struct udp_sender *s)
{
    size_t size = sender_room_bytes(s->size), filled = 0;
    while (filled < size) {
        ssize_t n = getrandom(s->room + filled, size - filled, 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        filled += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Make it ready to send to the socket's peer. Returns 0 or -errno. */
static inline int sender_open(struct udp_sender *s, int fd, uint32_t tag, const struct session_terms *t)
{
    static const struct timeval slice = {.tv_usec = 50000};
    int error = sender_fill(s);
    if (error)
        return error;
    s->fd = fd;
    s->tag = tag;
    for (uint32_t i = 0; i < sender_room_bytes(s->size) / s->size; i++) {
        s->pieces[i] = (struct iovec){.iov_base = s->room + (size_t)i * s->size, .iov_len = s->size};
        s->messages[i].msg_hdr = (struct msghdr){.msg_iov = &s->pieces[i], .msg_iovlen = 1};
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof slice);
    udp_path_open(&s->path, fd, s->size);
    pace_init(&s->pace, (double)t->rate_bytes_per_s / s->size, 0, 0, 0);
    return sender_use(s, s->named ? t->offload : OFFLOAD_GSO);
}

/* How many datagrams the budget still allows, a batch at the most. */
static inline uint32_t sender_afford(struct udp_sender *s, struct budget *b)
{
    uint64_t wanted = (uint64_t)s->batch * s->size;
    if (s->reserved - s->sent_bytes < wanted)
        s->reserved += budget_take(b, wanted - (s->reserved - s->sent_bytes));
    uint64_t count = (s->reserved - s->sent_bytes) / s->size;
    return count < s->batch ? (uint32_t)count : s->batch;
}

/* Wait until the next datagram is due. Returns the time; 0 when *running fell or the deadline came first. */
static inline uint64_t sender_wait(struct udp_sender *s, const uint32_t *running, uint64_t deadline_ns)
{
    s->pace.issued = s->sequence + s->refused;
    uint64_t due_ns = pace_wait(&s->pace, running, deadline_ns);
    return due_ns && s->rate_bytes_per_s ? clock_now_ns() : due_ns;
}

static inline void sender_stamp(struct udp_sender *s, uint32_t count, uint64_t now_ns)
{
    struct udp_header h = {.tag = s->tag, .sent_ns = (uint32_t)now_ns, .sequence = s->sequence};
    for (uint32_t i = 0; i < count; i++, h.sequence++)
        memcpy(s->room + (size_t)i * s->size, &h, sizeof h);
}

/* Returns how many datagrams the kernel took, or -errno. */
static inline int sender_offer(struct udp_sender *s, uint32_t count)
{
    ssize_t n;
    counter_add(&s->calls, 1);
    switch (s->offload) {
    case OFFLOAD_GSO:
        n = send(s->fd, s->room, (size_t)count * s->size, MSG_NOSIGNAL);
        return n < 0 ? -errno : (int)count;
    case OFFLOAD_MMSG:
        n = sendmmsg(s->fd, s->messages, count, MSG_NOSIGNAL);
        return n < 0 ? -errno : (int)n;
    default:
        n = send(s->fd, s->room, s->size, MSG_NOSIGNAL);
        return n < 0 ? -errno : 1;
    }
}

/* Fall back to a lesser way of sending, if it may be that which failed. Returns whether it did. */
static inline int sender_fall_back(struct udp_sender *s, int error)
{
    if (s->named || s->sequence)
        return 0;
    if (s->offload == OFFLOAD_GSO && (error == EINVAL || error == EIO || error == EMSGSIZE || error == EOPNOTSUPP))
        sender_use(s, OFFLOAD_MMSG);
    else if (s->offload == OFFLOAD_MMSG && (error == ENOSYS || error == EPERM || error == EINVAL))
        sender_use(s, OFFLOAD_NONE);
    else
        return 0;
    return 1;
}

/* The path has given back an error: go on, unless it does nothing else. Returns 0 or -errno. */
static inline int sender_stuck(struct udp_sender *s, int error, uint64_t now_ns)
{
    udp_path_collect_errors(&s->path);
    udp_path_read(&s->path, now_ns);
    if (error == EPIPE || (error == EMSGSIZE && !udp_path_fits(&s->path, s->size)))
        return -error;
    if (!s->stuck_ns)
        s->stuck_ns = now_ns;
    else if (now_ns - s->stuck_ns > SENDER_PATIENCE_NS)
        return -error;
    else
        clock_sleep_until(now_ns + 1000000);
    return 0;
}

/* Returns 0 to go on, or -errno when nothing gets out any more. */
static inline int sender_failed(struct udp_sender *s, int error, uint32_t count, uint64_t now_ns)
{
    if (sender_fall_back(s, error))
        return 0;
    switch (error) {
    case EAGAIN: case EINTR:
        return 0;
    case ENOBUFS: case ENOMEM: case EPERM:
        counter_add(&s->refused, s->offload == OFFLOAD_GSO ? count : 1);
        return 0;
    }
    return sender_stuck(s, error, now_ns);
}

/* Send the next datagrams, at most `count` and no more than a batch. Returns 0, or -errno when nothing gets out. */
static inline int sender_send(struct udp_sender *s, uint32_t count, uint64_t now_ns)
{
    if (count > s->batch)
        count = s->batch;
    sender_stamp(s, count, now_ns);
    int taken = sender_offer(s, count);
    if (taken < 0)
        return sender_failed(s, -taken, count, now_ns);
    counter_add(&s->sequence, (uint64_t)taken);
    counter_add(&s->sent_bytes, (uint64_t)taken * s->size);
    s->stuck_ns = 0;
    udp_path_watch(&s->path, now_ns);
    return 0;
}

#endif
