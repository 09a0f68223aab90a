"""The agent's own ProbeService on its loopback: who may look, under which certificate, at which port."""

import asyncio
import logging
import socket
from pathlib import Path
from typing import Final

from cvmprobe.errors import ConfigError, ProbeError
from cvmprobe.model.delivery import Welcome
from cvmprobe.wire.handler import LiveHandler
from cvmprobe.wire.identity import Access, Authenticator, Principal, StaticTokens
from cvmprobe.wire.serve import serve
from cvmprobe.wire.tls import ServerTls

__all__ = ["OwnService", "authenticator"]

_LOG: Final = logging.getLogger(__name__)
_HOST: Final = "127.0.0.1"
_VIEWER: Final = Principal("viewer", Access.VIEWER)


class OwnService:
    """Serves ``live`` once the collector has sent a certificate. The port is held from the start, to be told to it."""

    def __init__(self, live: LiveHandler, port: int, token_file: Path | None) -> None:
        self._live = live
        self._authenticator = authenticator(token_file)
        self._tls: ServerTls | None = None
        self._certified = asyncio.Event()
        self._place = socket.socket()
        try:
            self._place.bind((_HOST, port))
        except OSError as error:
            self._place.close()
            raise ConfigError(f"agent.probe_service_port = {port}: cannot bind it: {error.strerror}") from error
        self.port: int = self._place.getsockname()[1]

    def renew(self, welcome: Welcome) -> None:
        """Take the certificate that came with ``welcome``, if one did."""
        if welcome.certificate_pem:
            self._tls = ServerTls(welcome.certificate_pem, welcome.private_key_pem)
            self._certified.set()

    async def run(self) -> None:
        """Serve until cancelled. A failure costs this service only."""
        try:
            await self._certified.wait()
            self._place.close()
            async with serve(f"{_HOST}:{self.port}", self._certificate, self._authenticator, probe=self._live):
                _LOG.info("own service port=%d", self.port)
                await asyncio.Event().wait()
        except ProbeError as error:
            _LOG.warning("own service not served: %s", error)
        finally:
            self._place.close()

    def _certificate(self) -> ServerTls:
        if self._tls is None:
            raise ConfigError("the collector has sent no certificate yet")
        return self._tls


class _WhoeverReachesIt:
    """Everybody on this loopback is a viewer: whoever may enter the pod, or forward its port, may look."""

    async def authenticate(self, token: str) -> Principal | None:
        """Who holds ``token``: any will do."""
        del token
        return _VIEWER


def authenticator(token_file: Path | None) -> Authenticator:
    """Return who may look: the holder of the token in ``token_file``, or whoever reaches us. Raises ConfigError."""
    if token_file is None:
        return _WhoeverReachesIt()
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"agent.probe_service_token_file: cannot read {token_file}: {error.strerror}") from error
    if not token:
        raise ConfigError(f"agent.probe_service_token_file: {token_file} is empty")
    return StaticTokens({token: _VIEWER})
