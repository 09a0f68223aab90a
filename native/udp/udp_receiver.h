/* Numbered datagrams into one connected UDP socket: each counted once, many to a call where the kernel gives them so.
 *
 *     GSO   recvmmsg of up to 8 packets, each of many datagrams that the kernel left together (UDP_GRO)
 *     MMSG  recvmmsg of up to 64 datagrams
 *     NONE  one recv for each datagram
 *
 * How a packet is cut is taken from the kernel's message beside it, never from the terms. One clock read after each
 * call; it times the last datagram of that call, which has waited least, for the jitter.
 *
 * What found no room in the socket is counted by the kernel in packets. Where each packet was one datagram that is the
 * number of datagrams lost here. Where packets held more, what is missing between two packets counts as lost here if
 * the kernel dropped something in between: at most as many datagrams for a packet as the fullest one held.
 */
#ifndef CVMPROBE_UDP_RECEIVER_H
#define CVMPROBE_UDP_RECEIVER_H

#include <errno.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "session/udp_datagram.h"
#include "socket/udp_path.h"
#include "udp/udp_sequence.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define RECEIVER_BATCH 64u
#define RECEIVER_PACKETS 8u /* of up to 64 KiB: more would not stay in the cache */
#define RECEIVER_PACKET_BYTES 65536u
#define RECEIVER_ROOM_BYTES (RECEIVER_PACKETS * RECEIVER_PACKET_BYTES)

/* For whoever reads while it goes on. */
struct udp_received {
    uint64_t calls;
    uint64_t bytes; /* of payload, each datagram once; so of the datagrams */
    uint64_t datagrams;
    uint64_t duplicates;
    uint64_t reordered;
};

struct udp_receiver {
    int fd;
    uint32_t tag;
    uint32_t batch;
    uint32_t slot_bytes; /* of the room, for one packet or datagram */
    uint32_t fullest;    /* most datagrams that a packet held */
    uint32_t seen_drops; /* of the kernel, as of the last packet */
    uint32_t fresh;      /* whether the last call brought a datagram of this flow */
    uint32_t sent_ns;    /* the stamp of its last one */
    uint64_t fresh_bytes; /* of payload that had not come before */
    uint64_t offload;      /* enum session_offload, in use; never BEST */
    uint64_t missing_here; /* datagrams between packets, beside drops in this socket */
    uint64_t foreign;      /* datagrams that are not of this flow */
    struct udp_received counts;
    struct udp_sequence sequence;
    struct udp_jitter jitter;
    struct udp_path path;
    uint8_t *room; /* RECEIVER_ROOM_BYTES of it */
    struct iovec pieces[RECEIVER_BATCH];
    struct mmsghdr messages[RECEIVER_BATCH];
    uint64_t controls[RECEIVER_BATCH][8];
};

/* The best way of receiving that this kernel has, or the named one. */
static inline uint32_t receiver_choose(int fd, uint32_t asked)
{
    static const int on = 1;
    if (asked == OFFLOAD_MMSG || asked == OFFLOAD_NONE)
        return asked;
    if (!setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on)) {
        setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on);
        return OFFLOAD_GSO;
    }
    return asked == OFFLOAD_GSO ? OFFLOAD_BEST : OFFLOAD_MMSG;
}

/* A receiver with its room, touched; NULL: no memory. Free it with free(). */
static inline struct udp_receiver *receiver_new(void)
{
    struct udp_receiver *r = (struct udp_receiver *)malloc(sizeof *r + RECEIVER_ROOM_BYTES);
    if (!r)
        return NULL;
    memset(r, 0, sizeof *r + RECEIVER_ROOM_BYTES);
    r->room = (uint8_t *)(r + 1);
    return r;
}

/* Make it ready to receive from the socket's peer. Returns 0 or -errno. */
static inline int receiver_open(struct udp_receiver *r, int fd, uint32_t tag, const struct session_terms *t)
{
    r->fd = fd;
    r->tag = tag;
    udp_path_open(&r->path, fd, t->request_bytes);
    r->offload = receiver_choose(fd, t->offload);
    if (r->offload == OFFLOAD_BEST)
        return -ENOPROTOOPT;
    r->slot_bytes = r->offload == OFFLOAD_GSO ? RECEIVER_PACKET_BYTES : (t->request_bytes + 63) / 64 * 64;
    uint32_t slots = RECEIVER_ROOM_BYTES / r->slot_bytes;
    r->batch = slots < RECEIVER_BATCH ? slots : RECEIVER_BATCH;
    for (uint32_t i = 0; i < r->batch; i++) {
        r->pieces[i] = (struct iovec){.iov_base = r->room + (size_t)i * r->slot_bytes, .iov_len = r->slot_bytes};
        r->messages[i].msg_hdr = (struct msghdr){.msg_iov = &r->pieces[i], .msg_iovlen = 1};
    }
    return 0;
}

/* Whether a call of recvmmsg itself is what fails here: then do without from now on. */
static inline int receiver_fall_back(struct udp_receiver *r, int error)
{
    if (r->counts.calls || r->offload == OFFLOAD_NONE || (error != ENOSYS && error != EPERM))
        return 0;
    counter_set(&r->offload, OFFLOAD_NONE);
    return 1;
}

/* Returns how many packets came, or -errno. */
static inline int receiver_fetch(struct udp_receiver *r, int flags)
{
    if (r->offload == OFFLOAD_NONE) {
        ssize_t n = recv(r->fd, r->room, r->slot_bytes, flags);
        r->messages[0].msg_len = n < 0 ? 0 : (unsigned)n;
        return n < 0 ? -errno : 1;
    }
    if (r->offload == OFFLOAD_GSO)
        for (uint32_t i = 0; i < r->batch; i++) {
            r->messages[i].msg_hdr.msg_control = r->controls[i];
            r->messages[i].msg_hdr.msg_controllen = sizeof r->controls[i];
        }
    int n = recvmmsg(r->fd, r->messages, r->batch, flags | MSG_WAITFORONE, NULL);
    return n < 0 ? -errno : n;
}

/* One datagram. Returns how many numbers it jumped over. */
static inline uint64_t receiver_take(struct udp_receiver *r, const uint8_t *data, uint32_t size)
{
    struct udp_header h;
    if (!udp_header_read(&h, data, size, r->tag)) {
        r->foreign++;
        return 0;
    }
    uint64_t before = r->sequence.unique;
    uint64_t jumped = sequence_take(&r->sequence, h.sequence);
    r->fresh_bytes += (r->sequence.unique - before) * size;
    r->sent_ns = h.sent_ns;
    r->fresh = 1;
    return jumped;
}

/* What the kernel says beside a packet: the length of its datagrams, and all drops before it. */
static inline void receiver_read_control(struct msghdr *message, uint32_t *stride, uint32_t *drops)
{
    int length;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            memcpy(&length, CMSG_DATA(c), sizeof length);
            *stride = length > 0 ? (uint32_t)length : *stride;
        } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL) {
            memcpy(drops, CMSG_DATA(c), sizeof *drops);
        }
    }
}

static inline void receiver_take_packet(struct udp_receiver *r, uint32_t index)
{
    struct mmsghdr *m = &r->messages[index];
    const uint8_t *data = r->room + (size_t)index * r->slot_bytes;
    uint32_t stride = m->msg_len, drops = r->seen_drops, held = 0;
    if (r->offload == OFFLOAD_GSO)
        receiver_read_control(&m->msg_hdr, &stride, &drops);
    uint64_t missing = 0;
    for (uint32_t at = 0; at < m->msg_len; at += stride, held++)
        missing += receiver_take(r, data + at, m->msg_len - at < stride ? m->msg_len - at : stride);
    if (held > r->fullest)
        r->fullest = held;
    uint64_t most = (uint64_t)(drops - r->seen_drops) * r->fullest;
    r->missing_here += missing < most ? missing : most;
    r->seen_drops = drops;
}

static inline void receiver_publish(struct udp_receiver *r)
{
    counter_add(&r->counts.calls, 1);
    counter_add(&r->counts.bytes, r->fresh_bytes);
    counter_set(&r->counts.datagrams, r->sequence.unique);
    counter_set(&r->counts.duplicates, r->sequence.duplicates);
    counter_set(&r->counts.reordered, r->sequence.reordered);
}

/* Receive what is there; wait for the first datagram unless `flags` say otherwise. Returns the time after the call,
 * and in *error 0 or -errno (-EAGAIN: nothing came). */
static inline uint64_t receiver_receive(struct udp_receiver *r, int flags, int *error)
{
    int n = receiver_fetch(r, flags);
    uint64_t now_ns = clock_now_ns();
    udp_path_watch(&r->path, now_ns);
    *error = n < 0 && !receiver_fall_back(r, -n) ? n : 0;
    r->fresh = 0;
    r->fresh_bytes = 0;
    for (int i = 0; i < n; i++)
        receiver_take_packet(r, (uint32_t)i);
    if (r->fresh)
        jitter_take(&r->jitter, r->sent_ns, (uint32_t)now_ns);
    receiver_publish(r);
    return now_ns;
}

/* What to do about an error of receiver_receive: 0 to go on, else -errno. */
static inline int receiver_failed(struct udp_receiver *r, int error)
{
    switch (-error) {
    case 0: case EAGAIN: case EINTR:
        return 0;
    case ECONNREFUSED: case EHOSTUNREACH: case ENETUNREACH: case EMSGSIZE: case ENETDOWN: case EPROTO: case EACCES:
        udp_path_collect_errors(&r->path); /* who was told of them is the sender; here they end nothing */
        return 0;
    }
    return error;
}

/* Datagrams that found no room in this socket, once all is received; COUNTER_UNKNOWN where the kernel does not tell. */
static inline uint64_t receiver_dropped(struct udp_receiver *r)
{
    udp_path_read(&r->path, clock_now_ns());
    if (r->path.dropped == COUNTER_UNKNOWN || r->fullest <= 1)
        return r->path.dropped;
    uint32_t after_the_last = (uint32_t)r->path.dropped - r->seen_drops;
    return r->missing_here + (uint64_t)after_the_last * r->fullest;
}

#endif
