"""The collector's certificates: its own, renewed long before it ends, and those of agents that serve themselves."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cvmprobe.wire.authority import CertificateAuthority
from cvmprobe.wire.tls import ServerTls

__all__ = ["Certificates"]

_RENEW_S = 10 * 86_400  # a leaf is good for 30 days


class Certificates:
    """Issues from the CA in ``directory``, which is made there once. May be used from any thread."""

    def __init__(
        self, directory: Path, names: Sequence[str], monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._authority = CertificateAuthority.load_or_create(directory)
        self._names = tuple(names)
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._shown: ServerTls | None = None
        self._issued_s = 0.0

    @property
    def ca_pem(self) -> bytes:
        """The certificate that clients must trust."""
        return self._authority.certificate_pem

    def server_tls(self) -> ServerTls:
        """Return what the collector shows now; asked at each handshake."""
        with self._lock:
            now_s = self._monotonic_s()
            if self._shown is None or now_s - self._issued_s > _RENEW_S:
                self._shown, self._issued_s = ServerTls(*self._authority.issue(self._names)), now_s
            return self._shown

    def issue(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """Issue a certificate for an agent's own server: (certificate PEM, private key PEM)."""
        return self._authority.issue(names)
