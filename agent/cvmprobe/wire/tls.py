"""TLS credentials of both ends, as given values. gRPC's core speaks TLS 1.2 and 1.3 only, and prefers 1.3."""

from dataclasses import dataclass, field

__all__ = ["ClientTls", "ServerTls"]


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server shows: its certificate chain and private key, both PEM."""

    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What a client demands: the CA a server must chain to (PEM; may hold several) and the name it must bear."""

    ca_pem: bytes
    server_name: str
