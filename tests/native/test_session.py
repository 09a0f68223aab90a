"""The hello: as drawn, sealed like hashlib does it, and read with nothing but bounds."""

import hashlib
import hmac
import os
import struct
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.native.slow_session import Terms, Ticket, mac

from cvmprobe.errors import UsageError
from cvmprobe.native import session

TICKET = Ticket("tcp_stream", bytes(range(16)), bytes(range(32)))
TERMS = Terms(
    sockets=4,
    direction=2,
    receive=1,
    dscp=46,
    offload=3,
    interval_ms=200,
    duration_ms=3000,
    request_bytes=131072,
    sndbuf_bytes=262144,
    rcvbuf_bytes=131072,
    mss=8800,
    rate_bytes_per_s=1 << 40,
    byte_limit=1 << 41,
    congestion=b"cubic",
)
NONCE, CONTROL = b"n" * 16, b"c" * 16
STREAM = TICKET.hello(0, NONCE, NONCE, TERMS)
DATA = TICKET.hello(2, NONCE, CONTROL)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 1000])
@pytest.mark.parametrize("key_size", [0, 1, 32, 63, 64, 65, 200])
def test_hmac_agrees_with_hashlib(key_size, size):
    key, data = os.urandom(key_size), os.urandom(size)
    assert session.hmac_sha256(key, data) == hmac.new(key, data, hashlib.sha256).digest()


@given(key=st.binary(max_size=200), data=st.binary(max_size=5000))
def test_hmac_agrees_with_hashlib_on_anything(key, data):
    assert session.hmac_sha256(key, data) == hmac.new(key, data, hashlib.sha256).digest()


def test_a_control_hello_is_as_drawn():
    packed = session.pack_hello(TICKET.session_id, TICKET.key, "tcp_stream", 0, NONCE, NONCE, asdict(TERMS))
    assert packed == STREAM
    assert len(packed) == 192


def test_a_data_hello_is_as_drawn():
    packed = session.pack_hello(TICKET.session_id, TICKET.key, "tcp_stream", 2, NONCE, CONTROL)
    assert packed == DATA
    assert len(packed) == 96


@pytest.mark.parametrize("hello", [STREAM, DATA], ids=["control", "data"])
def test_a_hello_is_measured_from_its_beginning(hello):
    for received in range(len(hello)):
        assert session.measure_hello(hello[:received]) == (0 if received < 96 else len(hello))
        assert not session.verify_hello(hello[:received], TICKET.key)
    assert session.verify_hello(hello, TICKET.key)
    assert not session.verify_hello(hello + b"\0", TICKET.key)


@pytest.mark.parametrize("hello", [STREAM, DATA], ids=["control", "data"])
def test_no_bit_of_a_hello_can_be_changed(hello):
    for bit in range(len(hello) * 8):
        forged = bytearray(hello)
        forged[bit // 8] ^= 1 << bit % 8
        assert not session.verify_hello(bytes(forged), TICKET.key), f"bit {bit}"


def test_another_key_does_not_verify():
    assert not session.verify_hello(STREAM, bytes(32))
    assert not session.verify_hello(STREAM, TICKET.key[:-1])


@pytest.mark.parametrize("data", [b"X", b"CVMQ", b"CVMP\x01", b"GET / HTTP/1.1\r\n"])
def test_what_cannot_become_a_hello_is_known_at_once(data):
    assert session.measure_hello(data) < 0


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [(6, "<H", 1025), (56, "<H", 0), (56, "<H", 33), (56, "<H", 65535), (58, "<B", 1), (63, "<B", 1)],
)
def test_a_hello_out_of_bounds_is_refused_before_its_mac(at, layout, value):
    hello = bytearray(STREAM)
    struct.pack_into(layout, hello, at, value)
    assert session.measure_hello(bytes(hello)) < 0


STREAM_TERMS = {"sockets": 1, "interval_ms": 100, "duration_ms": 1000, "request_bytes": 1}
RR_TERMS = {**STREAM_TERMS, "response_bytes": 1}


@pytest.mark.parametrize(
    ("probe", "change", "sound"),
    [
        ("tcp_stream", {}, True),
        ("tcp_stream", {"sockets": 64, "receive": 1, "request_bytes": 1 << 20}, True),
        ("tcp_stream", {"sockets": 0}, False),
        ("tcp_stream", {"sockets": 65}, False),
        ("tcp_stream", {"direction": 1}, True),
        ("tcp_stream", {"sockets": 64, "direction": 2}, True),
        ("tcp_stream", {"sockets": 3, "direction": 2}, False),
        ("tcp_stream", {"direction": 3}, False),
        ("tcp_stream", {"receive": 2}, False),
        ("tcp_stream", {"dscp": 63}, True),
        ("tcp_stream", {"dscp": 64}, False),
        ("tcp_stream", {"offload": 4}, False),
        ("tcp_stream", {"congestion": b"fifteen-letters"}, True),
        ("tcp_stream", {"congestion": b"sixteen-letters!"}, False),
        ("tcp_stream", {"interval_ms": 0}, False),
        ("tcp_stream", {"interval_ms": 1, "duration_ms": 4096}, True),
        ("tcp_stream", {"interval_ms": 1, "duration_ms": 4097}, False),
        ("tcp_stream", {"duration_ms": 0}, False),
        ("tcp_stream", {"interval_ms": 1 << 31, "duration_ms": 24 * 3600 * 1000}, True),
        ("tcp_stream", {"interval_ms": 1 << 31, "duration_ms": 24 * 3600 * 1000 + 1}, False),
        ("tcp_stream", {"request_bytes": 0}, False),
        ("tcp_stream", {"request_bytes": (1 << 20) + 1}, False),
        ("tcp_stream", {"response_bytes": 1}, False),
        ("tcp_rr", {}, True),
        ("tcp_rr", {"duration_ms": 0}, True),
        ("tcp_rr", {"sockets": 1024}, True),
        ("tcp_rr", {"sockets": 1025}, False),
        ("tcp_rr", {"wait": 2}, True),
        ("tcp_rr", {"wait": 3}, False),
        ("tcp_rr", {"response_bytes": 0}, False),
        ("tcp_rr", {"response_bytes": (1 << 20) + 1}, False),
    ],
)
def test_terms_have_bounds(probe, change, sound):
    ticket = Ticket(probe)
    terms = Terms(**{**(STREAM_TERMS if probe == "tcp_stream" else RR_TERMS), **change})
    assert session.verify_hello(ticket.hello(0, NONCE, NONCE, terms), ticket.key) is sound


def test_reserved_bytes_of_the_terms_are_zero():
    for at in (7, *range(36, 40), *range(72, 96)):
        tail = bytearray(TERMS.packed())
        tail[at] = 1
        sealed = STREAM[:64] + mac(TICKET.key, STREAM[:64], bytes(tail)) + bytes(tail)
        assert session.measure_hello(sealed) == len(sealed)
        assert not session.verify_hello(sealed, TICKET.key)


@settings(max_examples=500)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_measured_within_bounds(data):
    size = session.measure_hello(data)
    assert size <= 0 or 96 <= size <= 96 + 256
    assert not session.verify_hello(data, TICKET.key)


@settings(max_examples=500)
@given(rest=st.binary(max_size=400))
def test_any_bytes_after_a_right_opening_are_measured_within_bounds(rest):
    data = b"CVMP\x02" + rest
    size = session.measure_hello(data)
    assert size <= 0 or 96 <= size <= 96 + 256
    assert size == 0 or len(data) >= 96


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((b"x", bytes(32)), "session id"), ((bytes(16), bytes(15)), "key"), ((bytes(16), bytes(65)), "key")],
)
def test_wrong_sizes_are_named(arguments, named):
    with pytest.raises(UsageError, match=named):
        session.pack_hello(*arguments, "tcp_rr", 0, NONCE, NONCE)


def test_a_key_is_never_in_a_message():
    key = b"secret-secret"
    with pytest.raises(UsageError) as raised:
        session.pack_hello(bytes(16), key, "tcp_rr", 0, NONCE, NONCE)
    assert "secret" not in str(raised.value)
