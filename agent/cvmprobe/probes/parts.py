"""Probes that are two at once: which ones, under which session each runs, and how the allowance is divided."""

import hashlib
from dataclasses import replace

from cvmprobe.model.session import Session
from cvmprobe.model.window import Probe

__all__ = ["part_bytes", "part_id", "part_session", "parts_of"]

_PARTS = {Probe.LOADED_RR: (Probe.TCP_RR, Probe.TCP_STREAM)}
_EIGHTHS = {Probe.TCP_RR: 1, Probe.TCP_STREAM: 7}


def parts_of(probe: Probe) -> tuple[Probe, ...]:
    """Return the probes whose sessions a probe opens at the responder: its own, but for one that is two at once."""
    return _PARTS.get(probe, (probe,))


def part_id(session_id: bytes, probe: Probe, part: Probe) -> bytes:
    """Return the id of a part's session, which both ends derive from the id they were told."""
    return session_id if part is probe else hashlib.sha256(part.value.encode() + session_id).digest()[:16]


def part_bytes(max_bytes: int, probe: Probe, part: Probe) -> int:
    """Return how much of an allowance is a part's."""
    return max_bytes if part is probe else max_bytes * _EIGHTHS[part] // 8


def part_session(session: Session, probe: Probe, part: Probe) -> Session:
    """Return the session of a part."""
    session_id = part_id(session.session_id, probe, part)
    return replace(session, session_id=session_id, max_bytes=part_bytes(session.max_bytes, probe, part))
