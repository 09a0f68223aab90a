"""The C side of the hello, so that tests can hold it against a slow oracle."""

KINDS: dict[str, int]

def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """Return HMAC-SHA256 of ``data``, as the engines compute it."""

def pack_hello(
    session_id: bytes,
    key: bytes,
    probe: str,
    index: int,
    nonce: bytes,
    control_nonce: bytes,
    terms: dict[str, int | bytes] | None = None,
) -> bytes:
    """Return a sealed hello; raises UsageError for ids, nonces and keys of a wrong size.

    ``terms`` is by the names of struct session_terms, what is not named is zero; None on data sockets.
    """

def measure_hello(data: bytes) -> int:
    """Return the size of the hello that ``data`` begins, 0 while that cannot be known, a negative errno if none."""

def verify_hello(data: bytes, key: bytes) -> bool:
    """Whether ``data`` is one whole hello, sealed under ``key``, with terms its kind can keep."""
