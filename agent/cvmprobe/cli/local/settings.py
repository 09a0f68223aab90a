"""Settings of the three children of a local run, written as the files they read."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cvmprobe.cli.local.state import LocalState

__all__ = ["NODES", "VOLUME", "Tokens", "write_agent", "write_collector", "write_tokens"]

NODES: Final = ("local-a", "local-b")
VOLUME: Final = "scratch"  # as the suites call it

# A local run is asked for by the person whose machine it is, so its budgets are wide; they still bind.
_NETWORK_BYTES: Final = 100 * 10**12
_DISK_WRITE_BYTES: Final = 10**12
_LIGHT_OPERATIONS_PER_S: Final = 400
_LIGHT_BITS_PER_S: Final = 10**7
# Somebody watches, so windows come sooner than in a cluster, with enough round trips each to carry p90.
_LIGHT_INTERVAL_MS: Final = 1_000
_LIGHT_RATE_PER_S: Final = 100


@dataclass(frozen=True, slots=True)
class Tokens:
    """Secrets of one local run: its person's, and one for each node."""

    person: str
    nodes: Mapping[str, str]


def write_tokens(state: LocalState) -> Tokens:
    """Make fresh tokens and write the files in which the children find them."""
    tokens = Tokens(secrets.token_urlsafe(32), {node: secrets.token_urlsafe(32) for node in NODES})
    known = {tokens.person: {"name": "local", "access": "runner"}}
    known |= {token: {"name": node, "access": "agent", "node": node} for node, token in tokens.nodes.items()}
    _write(state.state / "tokens.json", json.dumps(known))
    _write(state.state / "person.token", tokens.person)
    for node, token in tokens.nodes.items():
        _write(state.state / f"{node}.token", token)
    return tokens


def write_collector(state: LocalState) -> Path:
    """Write the collector's settings and return the file."""
    collector = {
        "state_dir": state.state / "collector",
        "tokens_file": state.state / "tokens.json",
        "listen": "127.0.0.1:0",
        "cluster": "local",
        "hosts": dict.fromkeys(NODES, "127.0.0.1"),
        "light.interval_ms": _LIGHT_INTERVAL_MS,
        "light.rate_per_s": _LIGHT_RATE_PER_S,
        "budgets.light_operations_per_s": _LIGHT_OPERATIONS_PER_S,
        "budgets.light_bits_per_s": _LIGHT_BITS_PER_S,
        "budgets.network_bytes_per_day": _NETWORK_BYTES,
        "budgets.disk_write_bytes_per_day": _DISK_WRITE_BYTES,
    }
    return _write(state.state / "collector.toml", _table("collector", collector))


def write_agent(state: LocalState, node: str, address: str, server_name: str, ca_pem: str) -> Path:
    """Write the settings of one agent and return the file."""
    agent = {
        "collector": address,
        "server_name": server_name,
        "ca_file": _write(state.state / f"{node}.ca.pem", ca_pem),
        "token_file": state.state / f"{node}.token",
        "node": node,
        "responder_host": "127.0.0.1",
        "probe_service": True,
        "probe_service_token_file": state.state / "person.token",
        "state_dir": state.state / node,
        "volumes": {VOLUME: state.scratch},
        "budgets.light_operations_per_s": _LIGHT_OPERATIONS_PER_S,
        "budgets.heavy_bytes_per_day": _NETWORK_BYTES,
        "budgets.disk_write_bytes_per_day": _DISK_WRITE_BYTES,
    }
    return _write(state.state / f"{node}.toml", _table("agent", agent))


def _table(section: str, values: Mapping[str, object]) -> str:
    lines = (f"{key} = {_value(value)}" for key, value in values.items())
    return "\n".join([f"[{section}]", *lines, ""])


def _value(value: object) -> str:
    """Write a value as TOML; the strings of JSON are strings of TOML as long as nothing is escaped as a surrogate."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(entry)}" for key, entry in value.items()) + " }"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _write(path: Path, text: str) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path
