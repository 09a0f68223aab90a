"""Flags that say which windows are meant, and since when."""

import re
import time
from typing import Annotated, Final

import typer

from cvmprobe.errors import UsageError
from cvmprobe.model.endpoint import Path
from cvmprobe.model.query import Selection, TimeRange
from cvmprobe.model.window import Probe

__all__ = ["NodeOption", "PathOption", "ProbeOption", "TargetOption", "selection", "since_range"]

NodeOption = Annotated[list[str] | None, typer.Option("--node", help="Only what this node measured; may be repeated.")]
ProbeOption = Annotated[list[Probe] | None, typer.Option("--probe", help="Only this probe; may be repeated.")]
PathOption = Annotated[list[Path] | None, typer.Option("--path", help="Only over this path; may be repeated.")]
TargetOption = Annotated[
    list[str] | None, typer.Option("--target", help="Only aimed at this, as tables print it; may be repeated.")
]

_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def selection(
    nodes: list[str] | None,
    probes: list[Probe] | None,
    paths: list[Path] | None,
    targets: list[str] | None,
    run_id: str | None = None,
) -> Selection:
    """Return the selection the flags make; what was not given means all."""
    return Selection(tuple(nodes or ()), tuple(probes or ()), tuple(paths or ()), tuple(targets or ()), run_id)


def since_range(since: str | None) -> TimeRange:
    """Return the time range from ``since`` (as 90s, 5m, 2h, 1d) ago until now; all time for None."""
    if since is None:
        return TimeRange()
    match = re.fullmatch(r"(\d{1,9})([smhd])", since)
    if match is None:
        raise UsageError(f"--since {since!r} is not a time span; write it as 90s, 5m, 2h or 1d")
    return TimeRange(start_unix_ms=time.time_ns() // 1_000_000 - int(match[1]) * _MS[match[2]])
