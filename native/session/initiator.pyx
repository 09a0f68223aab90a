"""What every engine with a peer shares: it dials its session when armed, and takes the responder's results at the end.

The last worker of such an engine is the control socket's: silent until the results, then over.
"""

import os

from libc.errno cimport (
    EADDRNOTAVAIL, EAGAIN, EBADMSG, ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, EPIPE,
    ETIMEDOUT,
)
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t

from cvmprobe.errors import DeniedError, EngineError, RefusedError, UnreachableError, UsageError, WireError

from cvmprobe.native.engine cimport Engine
from cvmprobe.native.initiator cimport (
    OPTION_CONGESTION, OPTION_DSCP, OPTION_MSS, OPTION_RATE, OPTION_RCVBUF, OPTION_SNDBUF, initiator,
    initiator_await_results, initiator_close, initiator_dial, initiator_init, initiator_resolve,
)
from cvmprobe.native.session cimport (
    DIRECTION_BOTH, DIRECTION_FORWARD, DIRECTION_REVERSE, RESULT_BUSY_NS, RESULT_BYTES, RESULT_CONGESTION,
    RESULT_CPU_NS, RESULT_DUPLICATES, RESULT_FIRST_NS, RESULT_JITTER_NS, RESULT_LAST_NS, RESULT_LOST,
    RESULT_MIN_RTT_NS, RESULT_MSS_BYTES, RESULT_NODE_BASELINE_NS, RESULT_NODE_BUSY_NS, RESULT_NODE_IRQ_NS,
    RESULT_NODE_SOFTIRQ_NS, RESULT_OPERATIONS, RESULT_PATH_MTU_BYTES, RESULT_RECEIVE_OFFLOAD, RESULT_REORDERED,
    RESULT_REORDERING_EVENTS, RESULT_REORDER_EXTENT, RESULT_RETRANSMITTED_SEGMENTS, RESULT_RTT_NS, RESULT_RUN_DELAY_NS,
    RESULT_RWND_LIMITED_NS, RESULT_SEND_ERRORS, RESULT_SEND_OFFLOAD, RESULT_SENT_BYTES, RESULT_SENT_OPERATIONS,
    RESULT_SNDBUF_LIMITED_NS, RESULT_SOCKET_DROPS, RESULT_UNKNOWN, SERIES_BYTES, SERIES_COUNT, SERIES_OPERATIONS,
    SERIES_SENT_BYTES, SERIES_SENT_OPERATIONS, SESSION_CONGESTION_BYTES, SESSION_MAX_STREAMS, WAIT_BLOCK, WAIT_EPOLL,
    WAIT_SPIN, session_bins, session_id_set, session_key_set, session_kind_is_udp, session_terms, session_terms_set,
    session_terms_sound,
)
from cvmprobe.native.worker cimport worker, worker_fail


cdef extern from "<errno.h>" nogil:
    enum:
        ECANCELED


RESULTS = {
    "bytes": RESULT_BYTES,
    "operations": RESULT_OPERATIONS,
    "first_ns": RESULT_FIRST_NS,
    "last_ns": RESULT_LAST_NS,
    "cpu_ns": RESULT_CPU_NS,
    "run_delay_ns": RESULT_RUN_DELAY_NS,
    "sent_bytes": RESULT_SENT_BYTES,
    "sent_operations": RESULT_SENT_OPERATIONS,
    "retransmitted_segments": RESULT_RETRANSMITTED_SEGMENTS,
    "lost": RESULT_LOST,
    "duplicates": RESULT_DUPLICATES,
    "reordered": RESULT_REORDERED,
    "reorder_extent": RESULT_REORDER_EXTENT,
    "jitter_ns": RESULT_JITTER_NS,
    "socket_drops": RESULT_SOCKET_DROPS,
    "send_errors": RESULT_SEND_ERRORS,
    "node_busy_ns": RESULT_NODE_BUSY_NS,
    "node_irq_ns": RESULT_NODE_IRQ_NS,
    "node_softirq_ns": RESULT_NODE_SOFTIRQ_NS,
    "node_baseline_ns": RESULT_NODE_BASELINE_NS,
    "busy_ns": RESULT_BUSY_NS,
    "rwnd_limited_ns": RESULT_RWND_LIMITED_NS,
    "sndbuf_limited_ns": RESULT_SNDBUF_LIMITED_NS,
    "reordering_events": RESULT_REORDERING_EVENTS,
    "rtt_ns": RESULT_RTT_NS,
    "min_rtt_ns": RESULT_MIN_RTT_NS,
    "path_mtu_bytes": RESULT_PATH_MTU_BYTES,
    "mss_bytes": RESULT_MSS_BYTES,
    "send_offload": RESULT_SEND_OFFLOAD,
    "receive_offload": RESULT_RECEIVE_OFFLOAD,
}
SERIES = {
    "bytes": SERIES_BYTES,
    "operations": SERIES_OPERATIONS,
    "sent_bytes": SERIES_SENT_BYTES,
    "sent_operations": SERIES_SENT_OPERATIONS,
}
WAITS = {"block": WAIT_BLOCK, "spin": WAIT_SPIN, "epoll": WAIT_EPOLL}
DIRECTIONS = {"forward": DIRECTION_FORWARD, "reverse": DIRECTION_REVERSE, "both": DIRECTION_BOTH}


# What a kernel can refuse: in words, the term, what to do.
OPTIONS = {
    OPTION_DSCP: ("DSCP", "dscp", "ask for none"),
    OPTION_SNDBUF: ("a send buffer of", "sndbuf_bytes", "ask for less, or raise net.core.wmem_max there"),
    OPTION_RCVBUF: ("a receive buffer of", "rcvbuf_bytes", "ask for less, or raise net.core.rmem_max there"),
    OPTION_MSS: ("an MSS of", "mss", "ask for 88 to 32767, or for none"),
    OPTION_RATE: ("a pacing rate of", "rate_bytes_per_s", "ask for none"),
    OPTION_CONGESTION: ("the congestion control", "congestion",
                        "ask for one of its net.ipv4.tcp_allowed_congestion_control, or for none"),
}


class Results(dict):
    """What a responder counted, by name. To need what it did not tell is an error of the session: WireError."""

    def __missing__(self, name):
        raise WireError(f"the responder did not tell its {name}: it is of another version, or is none of ours")


cdef dict round_trip_terms(str wait, unsigned int connections, dict terms):
    """Return terms with those of round trips over so many connections, which both ends await alike."""
    if wait not in WAITS:
        raise UsageError(f"wait {wait!r}: there are {', '.join(WAITS)}")
    return {**terms, "sockets": connections, "wait": WAITS[wait], "interval_ms": 1000}  # no bins are kept


cdef dict stream_terms(session, str direction, unsigned int streams, dict terms):
    """Return terms with those of so many streams each way; for both, half of what the session allows goes each way."""
    if direction not in DIRECTIONS:
        raise UsageError(f"direction {direction!r}: there are {', '.join(DIRECTIONS)}")
    ways = 2 if direction == "both" else 1
    if not 0 < streams * ways <= SESSION_MAX_STREAMS:
        raise UsageError(f"{streams} streams: there may be 1 to {SESSION_MAX_STREAMS // ways}")
    if terms["dscp"] > 63:
        raise UsageError(f"dscp {terms['dscp']}: there are 0 to 63")
    limit = min(session.max_bytes // ways, terms.get("byte_limit") or UINT64_MAX)
    if not limit and direction != "forward":
        raise UsageError(f"{session.max_bytes} bytes are allowed: a responder that sends needs some")
    return {**terms, "sockets": streams * ways, "direction": DIRECTIONS[direction], "byte_limit": limit}


cdef void await_results(worker *w, initiator *session) noexcept nogil:
    """Loop of the control socket's worker. No results within the drain are no failure: the session is cut."""
    cdef int error = initiator_await_results(session, &w.running, w.deadline_ns)
    if error < 0 and error != -ECANCELED and error != -ETIMEDOUT:
        worker_fail(w, b"receive the responder's results", -error)


cdef class Initiator(Engine):
    """An engine with a session (model/session.py), its first argument; `giving_up` is asked every 50 ms while dialing.

    The lesser of the session's bytes and the terms' byte limit binds what is sent.
    """

    cdef int _invite(self, uint8_t kind, dict terms, session, giving_up) except -1:
        """Keep the terms (by the names of session_terms) and whom to offer them to; nothing is dialed before arm()."""
        session_terms_set(&self._session.terms, terms)
        if not session_terms_sound(kind, &self._session.terms):
            raise UsageError(f"no responder keeps these terms: {terms}")
        initiator_init(&self._session)
        self._bins = bytearray(session_bins(kind, &self._session.terms) * SERIES_COUNT * sizeof(uint64_t))
        self._session.bins = <uint64_t *><char *>self._bins
        self._session.control.kind = kind
        self._session.incoming.limit = self._session.terms.byte_limit or UINT64_MAX
        self._session.budget.limit = min(<uint64_t>session.max_bytes, self._session.incoming.limit)
        self._session.dials = session.peer.dials
        session_id_set(self._session.control.session_id, session.session_id)
        session_key_set(&self._session.key, session.key)
        self._host = session.peer.host
        self._port = session.peer.port
        self._giving_up = giving_up
        return 0

    cdef int _open(self) except -1:
        cdef int error
        cdef bytes host = self._host.encode()
        cdef const char *name = host
        with nogil:
            error = initiator_resolve(&self._session, name, self._port)
        while not error:
            with nogil:
                error = initiator_dial(&self._session)
            if error == 0:
                return 0
            if error == -EAGAIN and not self._giving_up():
                error = 0
        return self._raise_dial(error)

    cdef int _raise_dial(self, int error) except -1:
        peer = f"peer {self._host} port {self._port}"
        reason = os.strerror(-error)
        if error == -EAGAIN:
            raise WireError(f"{peer}: stopped while dialing")
        udp = self._session.answered and session_kind_is_udp(self._session.control.kind)
        if error == (-ETIMEDOUT if udp else -ECONNRESET) and self._session.dials:
            raise DeniedError(f"not measured: each of {self._session.dialed} connections to {self._host} port "
                              f"{self._port} reached another endpoint than the wanted one; look whether it is ready")
        if udp:
            raise UnreachableError(f"{peer}: it answers over TCP, but not over UDP ({reason}); look whether a network "
                                   "policy or a firewall lets UDP through to this port")
        if error in (-ECONNRESET, -ECONNABORTED, -EPIPE):
            raise DeniedError(f"{peer}: it closed the connection without a word: it has not admitted this session, "
                              "or holds another key; look whether its lease was revoked")
        if error == -EBADMSG:
            raise WireError(f"{peer}: what answers there does not know the session's key; check the address")
        if error in (-ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH, -ENETUNREACH, -EADDRNOTAVAIL):
            raise UnreachableError(f"{peer}: nobody answers ({reason}); check that its agent runs and that no network "
                                   "policy stands between")
        if self._session.refused.option:
            self._raise_refused(peer)
        raise EngineError("connect", -error, f"dial {peer}")

    cdef int _raise_refused(self, str peer) except -1:
        cdef session_terms *t = &self._session.terms
        values = {"dscp": t.dscp, "sndbuf_bytes": t.sndbuf_bytes, "rcvbuf_bytes": t.rcvbuf_bytes, "mss": t.mss,
                  "rate_bytes_per_s": t.rate_bytes_per_s, "congestion": t.congestion.decode()}
        who = f"{peer}: its kernel" if self._session.refused_by_peer else "the kernel here"
        reason = os.strerror(<int>self._session.refused.error)
        if self._session.refused.option not in OPTIONS:
            raise RefusedError(f"{who} refuses option {self._session.refused.option} ({reason}), which this version "
                               "does not know: run the same version at both ends")
        what, term, advice = OPTIONS[self._session.refused.option]
        raise RefusedError(f"{who} refuses {what} {values[term]} ({reason}): {advice}")

    cdef void _release(self) noexcept nogil:
        initiator_close(&self._session)

    @property
    def results(self):
        """What the responder counted, by name; what it does not know is absent. None unless the session drained."""
        if not self._session.complete:
            return None
        counts = {name: self._session.results.counts[<int>what] for name, what in RESULTS.items()}
        return Results((name, count) for name, count in counts.items() if count != RESULT_UNKNOWN)

    @property
    def responder_congestion_control(self):
        """Name of the congestion control that the responder read back; None where it told none."""
        if not self._session.complete or self._session.results.counts[<int>RESULT_CONGESTION] == RESULT_UNKNOWN:
            return None
        name = <char *>&self._session.results.counts[<int>RESULT_CONGESTION]
        return name[:SESSION_CONGESTION_BYTES].partition(b"\0")[0].decode(errors="replace")

    @property
    def bins(self):
        """What the responder counted in each interval, and after the deadline, by series; empty unless it told."""
        if not self._session.complete or not self._session.results.bins:
            return {}
        cdef uint64_t *bins
        series = {}
        for name, index in SERIES.items():
            bins = self._session.bins + <int>index * self._session.results.bins
            series[name] = [bins[i] for i in range(self._session.results.bins)]
        return series
