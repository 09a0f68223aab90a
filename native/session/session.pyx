"""The C side of the hello (session.h), reachable from Python so that tests can hold it against a slow oracle."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from cvmprobe.errors import UsageError

from cvmprobe.native.session cimport (
    KIND_TCP_CRR, KIND_TCP_RR, KIND_TCP_STREAM, KIND_UDP_RR, KIND_UDP_STREAM, SESSION_CONGESTION_BYTES,
    SESSION_ID_BYTES, SESSION_MAX_KEY, SESSION_MAX_TERMS, SESSION_MIN_KEY, SESSION_NONCE_BYTES, SHA256_BYTES, hello,
    hello_measure, hello_pack, hello_verify, hmac, hmac_final, hmac_init, hmac_update, session_key, session_terms,
    session_terms_sound,
)

KINDS = {
    "tcp_stream": KIND_TCP_STREAM,
    "tcp_rr": KIND_TCP_RR,
    "tcp_crr": KIND_TCP_CRR,
    "udp_rr": KIND_UDP_RR,
    "udp_stream": KIND_UDP_STREAM,
}


cdef int session_key_set(session_key *k, bytes key) except -1:
    """Copy a key of 16 to 64 bytes; its text appears in no message."""
    if not SESSION_MIN_KEY <= len(key) <= SESSION_MAX_KEY:
        raise UsageError(f"a session key has {SESSION_MIN_KEY} to {SESSION_MAX_KEY} bytes, this one has {len(key)}")
    memset(k, 0, sizeof(session_key))
    k.size = <uint32_t>len(key)
    memcpy(k.bytes, <const char *>key, k.size)
    return 0


cdef int session_id_set(uint8_t *to, bytes session_id) except -1:
    if len(session_id) != SESSION_ID_BYTES:
        raise UsageError(f"a session id has {SESSION_ID_BYTES} bytes, {session_id.hex()!r} has {len(session_id)}")
    memcpy(to, <const char *>session_id, SESSION_ID_BYTES)
    return 0


cdef int session_terms_set(session_terms *t, dict terms) except -1:
    """Fill in the terms from a dict by field name; what is not named is zero. Nothing is judged here."""
    cdef bytes congestion
    memset(t, 0, sizeof(session_terms))
    values = dict(terms)
    congestion = values.pop("congestion", b"")
    if len(congestion) >= SESSION_CONGESTION_BYTES:
        raise UsageError(f"congestion control {congestion.decode(errors='replace')!r}: a name has at most "
                         f"{SESSION_CONGESTION_BYTES - 1} bytes")
    memcpy(t.congestion, <const char *>congestion, len(congestion))
    t.sockets = values.pop("sockets", 1)
    t.direction = values.pop("direction", 0)
    t.wait = values.pop("wait", 0)
    t.receive = values.pop("receive", 0)
    t.dscp = values.pop("dscp", 0)
    t.offload = values.pop("offload", 0)
    t.interval_ms = values.pop("interval_ms", 0)
    t.duration_ms = values.pop("duration_ms", 0)
    t.request_bytes = values.pop("request_bytes", 0)
    t.response_bytes = values.pop("response_bytes", 0)
    t.sndbuf_bytes = values.pop("sndbuf_bytes", 0)
    t.rcvbuf_bytes = values.pop("rcvbuf_bytes", 0)
    t.mss = values.pop("mss", 0)
    t.rate_bytes_per_s = values.pop("rate_bytes_per_s", 0)
    t.byte_limit = values.pop("byte_limit", 0)
    if values:
        raise TypeError(f"a session has no terms {', '.join(values)}")
    return 0


def hmac_sha256(bytes key not None, bytes data not None):
    """Return HMAC-SHA256 of `data`, as the engines compute it."""
    cdef hmac m
    cdef uint8_t[SHA256_BYTES] mac
    hmac_init(&m, <const uint8_t *><const char *>key, len(key))
    hmac_update(&m, <const char *>data, len(data))
    hmac_final(&m, mac)
    return bytes(mac[:SHA256_BYTES])


def pack_hello(
    bytes session_id not None, bytes key not None, str probe not None, uint16_t index, bytes nonce not None,
    bytes control_nonce not None, terms=None,
):
    """Return a sealed hello. `terms` is a dict by the names of struct session_terms; None on data sockets."""
    cdef uint8_t[96 + SESSION_MAX_TERMS] out
    cdef session_key k
    cdef hello h
    cdef session_terms t
    if len(nonce) != SESSION_NONCE_BYTES or len(control_nonce) != SESSION_NONCE_BYTES:
        raise UsageError(f"a nonce has {SESSION_NONCE_BYTES} bytes")
    session_key_set(&k, key)
    session_id_set(h.session_id, session_id)
    h.kind = KINDS[probe]
    h.index = index
    memcpy(h.nonce, <const char *>nonce, SESSION_NONCE_BYTES)
    memcpy(h.control_nonce, <const char *>control_nonce, SESSION_NONCE_BYTES)
    if terms is None:
        return bytes(out[:hello_pack(out, &k, h, NULL)])
    session_terms_set(&t, terms)
    return bytes(out[:hello_pack(out, &k, h, &t)])


def measure_hello(bytes data not None):
    """Return the size of the hello that `data` begins, 0 while that cannot be known, a negative errno if it is none."""
    return hello_measure(<const uint8_t *><const char *>data, len(data))


def verify_hello(bytes data not None, bytes key not None):
    """Whether `data` is one whole hello, sealed under `key`, with terms its kind can keep."""
    cdef session_key k
    cdef session_terms t
    cdef const uint8_t *raw = <const uint8_t *><const char *>data
    cdef int size = hello_measure(raw, len(data))
    session_key_set(&k, key)
    if size <= 0 or size != len(data) or not hello_verify(raw, size, &k):
        return False
    if size == sizeof(hello):
        return True
    memcpy(&t, raw + sizeof(hello), sizeof(t))
    return bool(session_terms_sound((<const hello *>raw).kind, &t))
