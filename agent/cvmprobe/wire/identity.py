"""Who is calling, and what each caller may do: one table, default deny."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cvmprobe.model.endpoint import Role

__all__ = ["METHOD_ACCESS", "OPEN_METHODS", "Access", "Authenticator", "Principal", "StaticTokens", "allowed"]


class Access(StrEnum):
    """What a caller is. An agent is no viewer, and a viewer is no agent."""

    AGENT = "agent"
    VIEWER = "viewer"
    RUNNER = "runner"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who has proved who it is. ``node`` is set for agents: the only node it may speak for.

    ``role`` is the only role it may have there (None: any); ``pod_uid`` names its pod where Kubernetes vouches for it.
    """

    name: str
    access: Access
    node: str | None = None
    role: Role | None = None
    pod_uid: str | None = None
    expires_unix_ms: int | None = None  # its live streams are cut then; None: never

    def expired(self) -> bool:
        """Whether the proof is over by the wall clock."""
        return self.expires_unix_ms is not None and self.expires_unix_ms <= time.time_ns() // 1_000_000


class Authenticator(Protocol):
    """Turns a bearer token into a principal."""

    async def authenticate(self, token: str) -> Principal | None:
        """Who holds ``token`` ("" when none was sent); None when nobody known does.

        Raises DeniedError where it is known and may not come in, UnreachableError where nobody can tell now.
        """
        ...


class StaticTokens:
    """The tokens of a file: the local run, and tests. Looked up by digest, so timing tells nothing of a token."""

    def __init__(self, tokens: Mapping[str, Principal]) -> None:
        self._principals = {_digest(token): principal for token, principal in tokens.items() if token}

    async def authenticate(self, token: str) -> Principal | None:
        """Who holds ``token``; None when it is unknown."""
        return self._principals.get(_digest(token))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


_AGENT = frozenset({Access.AGENT})
_VIEW = frozenset({Access.VIEWER, Access.RUNNER, Access.ADMIN})
_RUN = frozenset({Access.RUNNER, Access.ADMIN})

METHOD_ACCESS: Mapping[str, frozenset[Access]] = {
    "/cvmprobe.v1.IngestService/Attach": _AGENT,
    "/cvmprobe.v1.ProbeService/ListNodes": _VIEW,
    "/cvmprobe.v1.ProbeService/ListProbes": _VIEW,
    "/cvmprobe.v1.ProbeService/WatchWindows": _VIEW,
    "/cvmprobe.v1.ProbeService/WatchSamples": _VIEW,
    "/cvmprobe.v1.ProbeService/QueryWindows": _VIEW,
    "/cvmprobe.v1.ProbeService/Summarize": _VIEW,
    "/cvmprobe.v1.ProbeService/StartRun": _RUN,
    "/cvmprobe.v1.ProbeService/GetRun": _VIEW,
    "/cvmprobe.v1.ProbeService/WatchRun": _VIEW,
    "/cvmprobe.v1.ProbeService/CancelRun": _RUN,
    "/cvmprobe.v1.ProbeService/ListRuns": _VIEW,
    "/cvmprobe.v1.ProbeService/ExportSnapshot": _VIEW,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _VIEW,
}
"""Who may call what. A method that is not here is refused to everybody."""

OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""What anybody may call without a token: a prober has none."""


def allowed(method: str, principal: Principal) -> bool:
    """Whether ``principal`` may call ``method`` (its full path, as gRPC names it)."""
    return principal.access in METHOD_ACCESS.get(method, frozenset())
