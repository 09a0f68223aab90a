"""The end that is measured against: it serves the sessions it was told to admit."""

import resource
import threading
from collections.abc import Mapping

from cvmprobe.model.window import Probe
from cvmprobe.native.responder import Responder as NativeResponder
from cvmprobe.probes.parts import part_bytes, part_id, parts_of

__all__ = ["Responder"]


class Responder:
    """Listens on a numeric address until closed; all methods may be called from any thread.

    ``port`` 0 lets the kernel choose one. Raises EngineError where it cannot listen.
    """

    def __init__(self, host: str, port: int) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a session takes 3 descriptors and more
        self._native = NativeResponder(host, port)
        self._using = threading.Lock()  # the native one must not be closed while it is used
        self._parts: dict[bytes, tuple[bytes, ...]] = {}  # sessions of those admitted that are two at once
        self.port = self._native.port

    def admit(self, session_id: bytes, key: bytes, probe: Probe, *, valid_for_ms: int, max_bytes: int) -> None:
        """Let in the initiator that holds ``key`` (16 to 64 bytes), for so long and so many bytes of payload.

        Admitting the same again renews it. Raises UsageError that names what is wrong.
        """
        parts = {part: part_id(session_id, probe, part) for part in parts_of(probe)}
        with self._using:
            for part, name in parts.items():
                allowance = part_bytes(max_bytes, probe, part)
                self._native.admit(name, key, part.value, valid_for_ms=valid_for_ms, max_bytes=allowance)
            if len(parts) > 1:
                self._parts[session_id] = tuple(parts.values())

    def admit_any(self, key: bytes, *, valid_for_ms: int, max_bytes: int) -> None:
        """Let in whoever holds ``key`` (16 to 64 bytes), under any session id, each session for so many bytes.

        The same key again is a new end, also for the sessions that run; another key ends them. Raises UsageError.
        """
        with self._using:
            self._native.admit_any(key, valid_for_ms=valid_for_ms, max_bytes=max_bytes)

    def spent(self, session_id: bytes) -> int | None:
        """Return the bytes of payload that this id's sessions have moved; None where it is not admitted."""
        with self._using:
            known = [self._native.spent(part) for part in self._parts.get(session_id, (session_id,))]
        spent = [moved for moved in known if moved is not None]
        return sum(spent) if spent else None

    def revoke(self, session_id: bytes) -> None:
        """Let nobody in under this id any more, and cut its session."""
        with self._using:
            for part in self._parts.pop(session_id, (session_id,)):
                self._native.revoke(part)

    def counters(self) -> Mapping[str, int]:
        """Return connections, hellos, sessions and refusals so far, and how many sessions are ``active``."""
        with self._using:
            return self._native.counters()

    def shortage(self) -> str | None:
        """Return what was lacking for the last one who could not be served, and what to do; None while all is well."""
        with self._using:
            return self._native.shortage

    def close(self) -> None:
        """Cut all sessions and stop listening; does nothing the second time."""
        with self._using:
            self._native.close()
