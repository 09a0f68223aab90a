"""The gRPC server of a collector, and of an agent for itself."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cvmprobe.wire.handler import IngestHandler, LiveHandler
from cvmprobe.wire.identity import Authenticator
from cvmprobe.wire.tls import ServerTls

__all__ = ["serve"]


@asynccontextmanager
async def serve(
    listen: str,
    tls: Callable[[], ServerTls],
    authenticator: Authenticator,
    *,
    ingest: IngestHandler | None = None,
    probe: LiveHandler | None = None,
    health: bool = False,
    reflection: bool = False,
) -> AsyncIterator[int]:
    """Serve at ``listen`` (host:port, port 0: the kernel's choice) within the block; gives the port.

    ``tls`` is asked at each handshake, so that a renewed certificate counts at once. A ``probe`` that is
    no ProbeHandler (an agent's own) serves ListNodes, ListProbes, WatchWindows and WatchSamples; what is left
    out answers UNIMPLEMENTED. ``health`` is open to all, ``reflection`` to viewers; both need the extra
    [collector]. Leaving the block ends every call and leaves no task behind.
    Raises ConfigError when the address cannot be bound.
    """
    raise NotImplementedError((listen, tls, authenticator, ingest, probe, health, reflection))
    yield 0
