"""Verbs that are only another name of a program of its own: the process becomes ``python -m`` of it."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["PASS_ON", "become"]

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Typer's settings for a verb that hands all its arguments on, ``--help`` included."""


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process, so that signals and the exit code are the program's own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell, our own module
