"""The thread that lets sessions in and serves them, whatever Python does meanwhile."""

from typing import final

COUNTS: dict[str, int]

@final
class Responder:
    """Listens on a numeric address (port 0: the kernel's choice) until closed. Raises EngineError."""

    def __init__(self, host: str, port: int = 0) -> None: ...
    @property
    def port(self) -> int: ...
    def admit(self, session_id: bytes, key: bytes, probe: str, *, valid_for_ms: int, max_bytes: int) -> None:
        """Let the initiator that holds this key in, for so long and so many bytes of payload in all.

        Admitting the same id, key and probe again renews it: a new end, and a new allowance. Raises UsageError.
        """

    def admit_any(self, key: bytes, *, valid_for_ms: int, max_bytes: int) -> None:
        """Let in any session id and probe under this key, each session for so many bytes of payload.

        Each nonce is good once for as long as the key stays. The same key again is a new end, also for the sessions
        that run; another key ends them. Raises UsageError.
        """

    def spent(self, session_id: bytes) -> int | None:
        """Bytes of payload that this id's sessions have moved since it was admitted; None for one that is not."""

    def revoke(self, session_id: bytes) -> None:
        """Forget an admission and cut its session; does nothing for one that is not there."""

    def counters(self) -> dict[str, int]:
        """Return what has happened so far, monotone, and ``active``: the sessions that are open now."""

    @property
    def shortage(self) -> str | None:
        """What was lacking for the last one who could not be served (counter ``short``), and what to do about it."""

    def close(self) -> None:
        """Cut all sessions, join all threads; does nothing the second time. No other call may be under way."""
