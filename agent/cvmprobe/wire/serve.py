"""The gRPC server of a collector, and of an agent for itself."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import grpc

from cvmprobe.errors import ConfigError
from cvmprobe.v1 import ingest_pb2, probe_pb2
from cvmprobe.v1.ingest_pb2_grpc import add_IngestServiceServicer_to_server
from cvmprobe.v1.probe_pb2_grpc import add_ProbeServiceServicer_to_server
from cvmprobe.wire.calls import Gate
from cvmprobe.wire.channel import SHARED_OPTIONS
from cvmprobe.wire.handler import IngestHandler, LiveHandler
from cvmprobe.wire.identity import Authenticator
from cvmprobe.wire.ingest_service import IngestService
from cvmprobe.wire.probe_service import ProbeService
from cvmprobe.wire.tls import ServerTls

__all__ = ["serve", "serve_health"]

_GRACE_S = 0.5  # for calls in flight when the server ends
_OPTIONS = (
    *SHARED_OPTIONS,
    ("grpc.server_handshake_timeout_ms", 10_000),  # who is silent for longer gives its descriptor back
    ("grpc.so_reuseport", 0),  # a second server on the same port is an error
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


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

    ``tls`` is asked at each handshake, from another thread, so that a renewed certificate counts at once. A
    ``probe`` that is no ProbeHandler (an agent's own) serves ListNodes, ListProbes, WatchWindows and WatchSamples;
    the other methods answer UNIMPLEMENTED. ``health`` is open to all, ``reflection`` to viewers; both need the
    extra [collector]. Leaving the block ends every call and leaves no task behind.
    Raises ConfigError when the address cannot be bound.
    """
    gate = Gate(authenticator)
    server = grpc.aio.server(interceptors=[gate], options=_OPTIONS)
    services: list[str] = []
    if ingest is not None:
        add_IngestServiceServicer_to_server(IngestService(ingest), server)
        services.append(ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name)
    if probe is not None:
        add_ProbeServiceServicer_to_server(ProbeService(probe), server)
        services.append(probe_pb2.DESCRIPTOR.services_by_name["ProbeService"].full_name)
    if health:
        await _add_health(server, services)
    if reflection:
        _add_reflection(server, services)
    try:
        async with _started(server, listen, _credentials(tls)) as port:
            yield port
    finally:
        await gate.emptied()


@asynccontextmanager
async def serve_health(listen: str) -> AsyncIterator[int]:
    """Serve grpc.health.v1 alone, without TLS, at ``listen`` within the block; gives the port. Empty: nothing, 0.

    For a prober that speaks no TLS, such as the kubelet. Raises ConfigError when the address cannot be bound.
    """
    if not listen:
        yield 0
        return
    server = grpc.aio.server(options=_OPTIONS)
    await _add_health(server, [])
    async with _started(server, listen, None) as port:
        yield port


@asynccontextmanager
async def _started(
    server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None
) -> AsyncIterator[int]:
    """Let a server answer within the block; without credentials there is no TLS. Gives the port."""
    try:
        port = server.add_insecure_port(listen) if credentials is None else server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen at {listen}: {error}") from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(_GRACE_S)


def _credentials(tls: Callable[[], ServerTls]) -> grpc.ServerCredentials:
    """Give credentials that ask ``tls`` at each handshake.

    An unchanged certificate must be answered with None: gRPC frees what it replaces, while another handshake may
    be at work on it, and the process crashes when many connect at once.
    """
    shown, lock = tls(), threading.Lock()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        current = tls()
        with lock:
            if current == shown:
                return None
            shown = current
        return configuration(current)

    def configuration(current: ServerTls) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(current.private_key_pem, current.certificate_pem)])

    fetched = cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)  # the stubs leave out None: unchanged
    return grpc.dynamic_ssl_server_credentials(configuration(shown), fetched)


async def _add_health(server: grpc.aio.Server, services: list[str]) -> None:
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # noqa: PLC0415 -- an agent does without it

    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for service in ("", *services):
        await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    services.append(health.SERVICE_NAME)


def _add_reflection(server: grpc.aio.Server, services: list[str]) -> None:
    from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 -- an agent does without it

    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server)
