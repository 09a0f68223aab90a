"""udp_sender.h, udp_receiver.h: the two ends of a numbered flow of datagrams."""

from libc.stdint cimport uint32_t, uint64_t

from cvmprobe.native.budget cimport budget
from cvmprobe.native.pace cimport pace
from cvmprobe.native.session cimport session_terms
from cvmprobe.native.udp_sequence cimport udp_jitter, udp_sequence


cdef extern from "socket/udp_path.h" nogil:
    struct udp_path:
        uint32_t overhead_bytes
        uint64_t mtu_bytes
        uint64_t icmp_errors
        uint64_t icmp_error

cdef extern from "udp/udp_sender.h" nogil:
    struct udp_sender:
        uint32_t size
        uint64_t offload
        uint64_t sequence
        uint64_t sent_bytes
        uint64_t refused
        uint64_t calls
        pace pace
        udp_path path
    udp_sender *sender_new(const session_terms *t)
    int sender_open(udp_sender *s, int fd, uint32_t tag, const session_terms *t)
    uint32_t sender_afford(udp_sender *s, budget *b)
    uint64_t sender_wait(udp_sender *s, const uint32_t *running, uint64_t deadline_ns)
    int sender_send(udp_sender *s, uint32_t count, uint64_t now_ns)

cdef extern from "udp/udp_receiver.h" nogil:
    struct udp_received:
        uint64_t calls
        uint64_t bytes
        uint64_t datagrams
        uint64_t duplicates
        uint64_t reordered
    struct udp_receiver:
        uint64_t offload
        uint32_t fresh
        uint64_t fresh_bytes
        udp_received counts
        udp_sequence sequence
        udp_jitter jitter
        udp_path path
    udp_receiver *receiver_new()
    int receiver_open(udp_receiver *r, int fd, uint32_t tag, const session_terms *t)
    uint64_t receiver_receive(udp_receiver *r, int flags, int *error)
    int receiver_failed(udp_receiver *r, int error)
    uint64_t receiver_dropped(udp_receiver *r)
