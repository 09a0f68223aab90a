"""A client's way to a server: channel options, the token, and failures put into words."""

from collections.abc import Sequence

import grpc

from cvmprobe.errors import DeniedError, ProbeError, RefusedError, UnreachableError, UsageError, WireError
from cvmprobe.wire.tls import ClientTls

__all__ = ["ANSWERED", "LET_IN", "MESSAGE_CAP", "SHARED_OPTIONS", "bearer", "in_words", "open_channel"]

MESSAGE_CAP = 4 << 20  # bytes of one message, both ways

LET_IN = ("cvmprobe-let-in", "1")
"""Initial metadata of a stream whose caller was let in; that of a refusal is empty, and its status comes later."""

ANSWERED = ("cvmprobe-answered", "1")
"""Trailing metadata of every failure that our server itself states: the way to it fails with the same statuses."""

SHARED_OPTIONS: Sequence[tuple[str, int | str]] = (
    ("grpc.max_receive_message_length", MESSAGE_CAP),
    ("grpc.max_send_message_length", MESSAGE_CAP),
    # A peer that is gone without a word is noticed within 20 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Flow control that does not grow: a reader that stalls holds 0.1 MB, not 6 MB.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 << 10),
)

_KINDS: dict[grpc.StatusCode, type[ProbeError]] = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnreachableError,
    grpc.StatusCode.UNAUTHENTICATED: DeniedError,
    grpc.StatusCode.PERMISSION_DENIED: DeniedError,
    grpc.StatusCode.INVALID_ARGUMENT: UsageError,
    grpc.StatusCode.UNIMPLEMENTED: UsageError,
    grpc.StatusCode.FAILED_PRECONDITION: RefusedError,
}


def open_channel(address: str, tls: ClientTls) -> grpc.aio.Channel:
    """Open a channel to ``address`` (host:port); nothing is dialled before its first call."""
    return grpc.aio.secure_channel(
        address,
        grpc.ssl_channel_credentials(root_certificates=tls.ca_pem),
        options=(
            *SHARED_OPTIONS,
            ("grpc.ssl_target_name_override", tls.server_name),
            ("grpc.use_local_subchannel_pool", 1),  # no other channel's back-off counts for this one
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
        ),
    )


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Put a token into a call's metadata. UsageError where no header can carry it: gRPC would just break."""
    if not all("!" <= sign <= "~" for sign in token):
        raise UsageError("the token holds a blank, a line end or a sign that is not ASCII; is it the right file?")
    return (("authorization", f"Bearer {token}"),) if token else ()


def in_words(error: grpc.aio.AioRpcError, address: str) -> ProbeError:
    """Put a failed call into our error, with one line that a person can act on."""
    code, details = error.code(), " ".join((error.details() or "").split())
    kind = _KINDS.get(code, WireError)
    if details == "Internal error from Core":  # we wrote to a call that was just ending; its own status is lost
        return UnreachableError(f"{address} broke off the call")
    answered = ANSWERED in tuple(error.trailing_metadata() or ())
    if kind is UnreachableError and answered:
        return UnreachableError(f"{address} cannot do that now: {details}")
    if kind is UnreachableError and "verif" in details.lower():
        return UnreachableError(
            f"{address} shows a certificate that is not trusted here; check CA and name ({details})"
        )
    if kind is UnreachableError:
        return UnreachableError(f"{address} cannot be reached; is it running, and is the address right? ({details})")
    if kind is DeniedError:
        return DeniedError(f"{address} refuses: {details}")
    return kind(details) if kind is not WireError else WireError(f"{address} failed: {code.name}: {details}")
