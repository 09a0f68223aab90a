"""Numbered datagrams over 1 to 64 connected UDP sockets, one thread each at both ends.

    sending     start                                        deadline
                  |--send--|--send--| … |--send--|--send--|----|        all senders: the control socket is half-closed
                  each send begins at one clock read (CLOCK_MONOTONIC), which is in all its datagrams
    receiving   start: a header alone    first datagram                   deadline          quiet
                  |                        |--recvmmsg--|--recvmmsg--| …     |--- late ones --|
                                           |-- bin 0 --|-- bin 1 --| … |-- after the deadline --|
                  one clock read after each recvmmsg

The responder does the other half (udp_stream_service.pyx). Both directions at once are twice as many sockets, with
threads of their own. What the sender's kernel took is numbered without a gap, and the receiver counts each number once:
so after the drain what was sent is what was received and what was lost, and a loss is one of the network or of the
receiver's socket. What the sender's own kernel refused was never sent; it is counted apart.
"""

import os

from libc.errno cimport EMSGSIZE, ENOMEM
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from cvmprobe.errors import EngineError, UsageError

from cvmprobe.native.counters cimport COUNTER_UNKNOWN, counter_read, counter_set
from cvmprobe.native.initiator cimport (
    Initiator, await_results, initiator, initiator_sent_last, initiator_take_in, stream_terms,
)
from cvmprobe.native.intervals cimport intervals, intervals_at
from cvmprobe.native.pace cimport pace_start
from cvmprobe.native.service cimport SERVICE_DRAIN_NS, SERVICE_QUIET_NS
from cvmprobe.native.session cimport (
    KIND_UDP_STREAM, OFFLOAD_BEST, OFFLOAD_GSO, OFFLOAD_MMSG, OFFLOAD_NONE, SESSION_MAX_DATAGRAM, SESSION_MIN_DATAGRAM,
    session_bins, session_responder_sends,
)
from cvmprobe.native.sys_socket cimport MSG_NOSIGNAL, send
from cvmprobe.native.udp_datagram cimport udp_header, udp_tag
from cvmprobe.native.udp_flow cimport (
    receiver_dropped, receiver_failed, receiver_new, receiver_open, receiver_receive, sender_afford, sender_new,
    sender_open, sender_send, sender_wait, udp_receiver, udp_sender,
)
from cvmprobe.native.worker cimport worker, worker_fail, worker_running


cdef extern from "<errno.h>" nogil:
    enum:
        EDQUOT

OFFLOADS = {"best": OFFLOAD_BEST, "gso": OFFLOAD_GSO, "mmsg": OFFLOAD_MMSG, "none": OFFLOAD_NONE}
OFFLOAD_NAMES = {value: name for name, value in OFFLOADS.items()}


cdef struct flow:
    worker worker
    initiator *session
    udp_sender *sender  # one of the two is there
    udp_receiver *receiver
    uint64_t socket_drops  # known once all is received
    uint64_t *first_ns  # of all that receive
    uint64_t *bins  # bytes of all intervals, then datagrams
    intervals intervals


# -- sending --

cdef void send_loop(flow *f) noexcept nogil:
    cdef uint64_t now
    cdef uint32_t count
    cdef int error = 0
    pace_start(&f.sender.pace, f.worker.start_ns)
    while not error:
        now = sender_wait(f.sender, &f.worker.running, f.worker.deadline_ns)
        count = sender_afford(f.sender, &f.session.budget) if now else 0
        if not count:
            break
        error = sender_send(f.sender, count, now)
    if not worker_running(&f.worker):
        return
    if error:
        worker_fail(&f.worker, b"send", -error)
    else:
        initiator_sent_last(f.session)


# -- receiving --

cdef void say_begin(flow *f, int fd) noexcept nogil:
    cdef udp_header h
    h.tag = udp_tag(&f.session.control, <uint16_t>(f.worker.index + 1))
    h.sent_ns = 0
    h.sequence = 0
    send(fd, &h, sizeof(h), MSG_NOSIGNAL)


cdef void count_fresh(flow *f, uint64_t known, uint64_t now) noexcept nogil:
    cdef uint32_t at = intervals_at(&f.intervals, f.first_ns, now)
    f.bins[at] += f.receiver.fresh_bytes
    f.bins[f.intervals.count + at] += f.receiver.sequence.unique - known


cdef bint is_quiet(uint64_t now, uint64_t ended, uint64_t last) noexcept nogil:
    """Whether nothing more is to come, so long after the end and after the last datagram."""
    if not ended:
        return False
    return now - ended >= SERVICE_DRAIN_NS or (now - ended >= SERVICE_QUIET_NS and now - last >= SERVICE_QUIET_NS)


cdef void receive_loop(flow *f, int fd) noexcept nogil:
    cdef udp_receiver *r = f.receiver
    cdef uint64_t known
    cdef uint64_t now = f.worker.start_ns
    cdef uint64_t ended = 0
    cdef uint64_t last = 0
    cdef int error = 0
    while worker_running(&f.worker) and not is_quiet(now, ended, last):
        if not last and not ended:
            say_begin(f, fd)
        known = r.sequence.unique
        now = receiver_receive(r, 0, &error)
        if r.fresh:
            last = now
            count_fresh(f, known, now)
            if initiator_take_in(f.session, r.fresh_bytes):
                worker_fail(&f.worker, b"recvmmsg no more than was allowed", EDQUOT)
                return
        elif receiver_failed(r, error):
            worker_fail(&f.worker, b"recvmmsg", -error)
            return
        if not ended and now >= f.worker.deadline_ns:
            ended = now
            initiator_sent_last(f.session)
    counter_set(&f.socket_drops, receiver_dropped(r))


cdef void flow_loop(worker *w) noexcept nogil:
    cdef flow *f = <flow *>w
    if w.index == f.session.terms.sockets:
        await_results(w, f.session)
    elif f.sender is not NULL:
        send_loop(f)
    else:
        receive_loop(f, f.session.fds[w.index + 1])


cdef class UdpStream(Initiator):
    """Sends datagrams of `datagram_bytes` over `streams` sockets each way for `duration_ms`.

    `rate_bytes_per_s` of payload for each stream (0: as fast as it goes), and no more than the session allows in all.
    Buffers of 0 are left to the system. `offload` names how datagrams are handed over at both ends; best is the first
    of gso, mmsg and none that works. Raises UsageError for what no responder would keep.
    """

    cdef uint64_t _first_ns

    def __init__(self, session not None, *, uint32_t duration_ms, uint32_t interval_ms, unsigned int streams=1,
                 str direction not None="forward", uint32_t datagram_bytes=1372, uint64_t rate_bytes_per_s=0,
                 str offload not None="best", uint32_t sndbuf_bytes=0, uint32_t rcvbuf_bytes=0, unsigned int dscp=0,
                 str placement not None="inherit", giving_up=lambda: False):
        super().__init__(placement=placement, duration_ms=duration_ms)
        if offload not in OFFLOADS:
            raise UsageError(f"offload {offload!r}: there are {', '.join(OFFLOADS)}")
        if not SESSION_MIN_DATAGRAM <= datagram_bytes <= SESSION_MAX_DATAGRAM:
            raise UsageError(f"datagrams of {datagram_bytes} bytes: there may be {SESSION_MIN_DATAGRAM} to "
                             f"{SESSION_MAX_DATAGRAM}")
        terms = stream_terms(session, direction, streams, {
            "dscp": dscp,
            "offload": OFFLOADS[offload],
            "interval_ms": interval_ms,
            "duration_ms": duration_ms,
            "request_bytes": datagram_bytes,
            "sndbuf_bytes": sndbuf_bytes,
            "rcvbuf_bytes": rcvbuf_bytes,
            "rate_bytes_per_s": rate_bytes_per_s,
        })
        self._invite(KIND_UDP_STREAM, terms, session, giving_up)
        self._facts["engine"] = "udp_stream"
        self._staff(self._session.terms.sockets + 1, sizeof(flow), flow_loop, NULL)

    cdef int _outfit(self, worker *w) except -1:
        cdef flow *f = <flow *>w
        f.session = &self._session
        f.socket_drops = COUNTER_UNKNOWN
        if w.index == self._session.terms.sockets:
            return 0
        if session_responder_sends(&self._session.terms, w.index + 1):
            return self._outfit_receiver(f)
        return self._outfit_sender(f)

    cdef int _outfit_sender(self, flow *f) except -1:
        cdef udp_sender *s = sender_new(&self._session.terms)
        f.sender = s
        if s is NULL:
            raise EngineError("malloc", ENOMEM, "make room to send")
        self._count("sent_bytes", &s.sent_bytes)
        self._count("sent_datagrams", &s.sequence)
        self._count("send_calls", &s.calls)
        self._count("send_errors", &s.refused)
        return self._count("icmp_errors", &s.path.icmp_errors)

    cdef int _outfit_receiver(self, flow *f) except -1:
        cdef udp_receiver *r = receiver_new()
        f.receiver = r
        f.first_ns = &self._first_ns
        f.intervals.terms = &self._session.terms
        f.intervals.count = session_bins(KIND_UDP_STREAM, &self._session.terms)
        f.bins = <uint64_t *>calloc(2 * f.intervals.count, sizeof(uint64_t))
        if r is NULL or f.bins is NULL:
            raise EngineError("malloc", ENOMEM, "make room to receive")
        self._count("reverse_receiver_bytes", &r.counts.bytes)
        self._count("reverse_receiver_datagrams", &r.counts.datagrams)
        self._count("reverse_receive_calls", &r.counts.calls)
        self._count("reverse_duplicates", &r.counts.duplicates)
        return self._count("reverse_reordered", &r.counts.reordered)

    cdef void _retire(self, worker *w) noexcept nogil:
        cdef flow *f = <flow *>w
        free(f.sender)
        free(f.receiver)
        free(f.bins)

    cdef int _open(self) except -1:
        cdef flow *f
        cdef uint32_t tag
        cdef int error
        Initiator._open(self)
        for i in range(self._session.terms.sockets):
            f = <flow *>self._worker(i)
            tag = udp_tag(&self._session.control, <uint16_t>(i + 1))
            if f.sender is not NULL:
                error = sender_open(f.sender, self._session.fds[i + 1], tag, &self._session.terms)
            else:
                error = receiver_open(f.receiver, self._session.fds[i + 1], tag, &self._session.terms)
            if error:
                raise EngineError("setsockopt", -error,
                                  f"use offload {OFFLOAD_NAMES[self._session.terms.offload]}; ask for best")
        return 0

    @property
    def error(self):
        """(call, errno) that a worker ended on; None while all is well."""
        found = Initiator.error.__get__(self)
        if found is None or found[1] != EMSGSIZE:
            return found
        mtu = self.facts.get("path_mtu_bytes", "an unknown number of")
        return (f"send datagrams of {self._session.terms.request_bytes} bytes over a path of {mtu} bytes: "
                "ask for smaller ones", EMSGSIZE)

    @property
    def received(self):
        """What was received here, by the names of `results`; None where nothing was to come or it did not end."""
        cdef flow *f
        rows = []
        if self._block is NULL:
            return None
        for i in range(self._session.terms.sockets):
            f = <flow *>self._worker(i)
            if f.receiver is NULL:
                continue
            rows.append((counter_read(&f.receiver.counts.bytes), f.receiver.sequence.unique,
                         f.receiver.sequence.duplicates, f.receiver.sequence.reordered, counter_read(&f.socket_drops),
                         f.receiver.sequence.reorder_extent, f.receiver.jitter.sixteenfold >> 4))
        if not rows or self.state not in ("stopped", "closed"):
            return None
        *sums, extents, jitters = zip(*rows, strict=True)
        names = ("bytes", "operations", "duplicates", "reordered", "socket_drops")
        known = {name: sum(values) for name, values in zip(names, sums, strict=True) if COUNTER_UNKNOWN not in values}
        return {**known, "reorder_extent": max(extents), "jitter_ns": max(jitters)}

    @property
    def received_bins(self):
        """What was received here in each interval, and after the deadline, by the names of `bins`; {} if nothing."""
        cdef flow *f
        cdef uint32_t count = session_bins(KIND_UDP_STREAM, &self._session.terms)
        if self._block is NULL:
            return {}
        sums = [0] * (2 * count)
        for i in range(self._session.terms.sockets):
            f = <flow *>self._worker(i)
            if f.receiver is NULL:
                continue
            for at in range(2 * count):
                sums[at] += f.bins[at]
        return {"bytes": sums[:count], "operations": sums[count:]}

    @property
    def facts(self):
        """What was found and used; once the session has drained, also at the responder."""
        known = dict(self._facts)
        if self._block is not NULL:
            known.update(self._flow_facts())
        results = self.results or {}
        for name in ("send_offload", "receive_offload"):
            if name in results:
                known[f"responder_{name}"] = OFFLOAD_NAMES[results[name]]
        return known

    cdef dict _flow_facts(self):
        """Of the sockets here; they all go the same way."""
        cdef flow *f
        found = {}
        for i in range(self._session.terms.sockets):
            f = <flow *>self._worker(i)
            if f.sender is not NULL:
                found["send_offload"] = OFFLOAD_NAMES[counter_read(&f.sender.offload)]
                if counter_read(&f.sender.path.icmp_error):
                    found["icmp_error"] = os.strerror(counter_read(&f.sender.path.icmp_error))
                mtu = counter_read(&f.sender.path.mtu_bytes)
                if mtu != COUNTER_UNKNOWN:
                    found["path_mtu_bytes"] = str(mtu)
                    found["fragments"] = fragments(f.sender.size + 8, mtu, f.sender.path.overhead_bytes - 8)
            elif f.receiver is not NULL:
                found["receive_offload"] = OFFLOAD_NAMES[counter_read(&f.receiver.offload)]
        return found


cdef str fragments(uint64_t size, uint64_t mtu, uint64_t header_bytes):
    """Into how many packets a datagram (UDP header included) is cut; a fragment ends at a multiple of 8 bytes."""
    if size + header_bytes <= mtu:
        return "1"
    if header_bytes > 20:
        header_bytes += 8  # IPv6 says in a header of its own what is a fragment
    cdef uint64_t room = (mtu - header_bytes) // 8 * 8
    return str((size + room - 1) // room)
