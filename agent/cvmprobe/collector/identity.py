"""Who may come in, from the tokens file: ``{"<token>": {"name": "a", "access": "agent", "node": "a"}}``."""

import stat
from pathlib import Path

import msgspec

from cvmprobe.errors import ConfigError
from cvmprobe.wire.identity import Access, Principal, StaticTokens

__all__ = ["read_tokens"]


class _Holder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    access: Access
    node: str | None = None

    def __post_init__(self) -> None:
        if (self.access is Access.AGENT) != (self.node is not None):
            raise ValueError(f"{self.name}: an agent, and nobody else, speaks for a node")


def read_tokens(path: Path) -> StaticTokens:
    """Read the tokens file. ConfigError when it is unreadable, malformed, or open to others."""
    try:
        mode = path.stat().st_mode
        holders = msgspec.json.decode(path.read_bytes(), type=dict[str, _Holder])
    except OSError as error:
        raise ConfigError(f"tokens file {path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:  # its text holds no token: keys are left out of paths
        raise ConfigError(f"tokens file {path}: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"tokens file {path} is open to others (mode {mode & 0o777:04o}): chmod 600 {path}")
    return StaticTokens(
        {token: Principal(holder.name, holder.access, holder.node) for token, holder in holders.items()}
    )
