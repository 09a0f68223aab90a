"""One program as a child process: it ends when we ask, when we end, and at the latest when it is killed."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cvmprobe.errors import ProbeError

__all__ = ["Child"]

_LAST_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Child:
    """A started child. Its stdin is open as long as we live, and it ends when that closes."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @classmethod
    async def start(cls, name: str, module: str, config: Path, log: Path) -> "Child":
        """Start ``python -m module`` with its configuration file; what it writes goes to ``log``."""
        with log.open("xb") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a file of the user's must not stand in for a module
                "-m",
                module,
                "--config",
                str(config),
                "--until-stdin-closes",
                stdin=asyncio.subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env={name: value for name, value in os.environ.items() if not name.startswith("CVMPROBE_")},
                start_new_session=True,  # Ctrl-C is for us; we tell the children, in order
            )
        return cls(name, process, log)

    async def died(self) -> ProbeError:
        """Wait until it has ended, and return what it said last: its reason, unless somebody else ended it."""
        code = await self.process.wait()
        if code < 0:
            return ProbeError(f"{self.name} was ended by signal {_signal(-code)}; its last line: {self._last_line()}")
        return ProbeError(f"{self.name} ended early (exit {code}): {self._last_line()}")

    async def end(self, within_s: float) -> None:
        """End it: asked first, killed after ``within_s``. Twice is fine."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), within_s)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _last_line(self) -> str:
        with suppress(OSError):
            text = self.log.read_bytes()[-_LAST_BYTES:].decode(errors="replace")
            return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
        return "it said nothing"


def _signal(number: int) -> str:
    with suppress(ValueError):
        return f"{number} ({signal.Signals(number).name})"
    return str(number)
