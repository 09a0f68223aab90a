"""Programs of their own: what they need, and verbs that are only another name for one."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final, NoReturn

__all__ = ["AGENT", "COLLECTOR", "PASS_ON", "become", "require"]

AGENT: Final = "cvmprobe.node"
COLLECTOR: Final = "cvmprobe.collector"
_NEEDS: Final = {AGENT: ("psutil", "cvmprobe.native.engine"), COLLECTOR: ("cryptography", "duckdb")}
PASS_ON: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Typer's settings for a verb that hands all its arguments on, ``--help`` included."""


def require(program: str) -> None:
    """Raise ModuleNotFoundError for what ``program`` needs and this installation lacks."""
    for module in _NEEDS[program]:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def become(program: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by ``python -m program``, so that signals and the exit code are the program's own."""
    require(program)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", program, *arguments])  # noqa: S606 - no shell, our own module
