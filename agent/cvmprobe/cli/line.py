"""A way to a collector, and a line over it that is opened anew where the way breaks, or its token ends."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Protocol

from cvmprobe.errors import DeniedError, UnreachableError, WireError
from cvmprobe.wire.client import ProbeClient

__all__ = ["Line", "Opener", "Way"]

_GIVE_UP_S: Final = 120.0  # longer than a pod takes to start elsewhere
_DELAY_S: Final = (0.0, 0.5, 1.0, 2.0, 4.0)  # before each attempt; the last one again and again

Opener = Callable[[], AbstractAsyncContextManager[ProbeClient]]


class Way(Protocol):
    """How a collector is reached, as often as need be. ``lasting``: it may break while what it leads to goes on."""

    @property
    def lasting(self) -> bool:
        """Whether another attempt may find again what was there."""
        ...

    def client(self) -> AbstractAsyncContextManager[ProbeClient]:
        """Open a client of the collector."""
        ...

    def agent(self, name: str) -> AbstractAsyncContextManager[ProbeClient]:
        """Open a client of the own service of the agent on that node."""
        ...


class Line(AbstractAsyncContextManager[ProbeClient, bool]):
    """A client for work that takes long, and can go on from where it stands.

        while True:
            async with line as client:
                ...  # line.works() when it has answered
                return

    A lasting way that broke, and a token that ended after it had worked, leave the block without an error, so that
    it is entered again with a client and a token that are new. ``tell`` hears of it.
    """

    def __init__(self, opener: Opener, *, lasting: bool, tell: Callable[[str], None]) -> None:
        self._opener = opener
        self._lasting = lasting
        self._tell = tell
        self._opened: AbstractAsyncContextManager[ProbeClient] | None = None
        self._ever = False  # has it worked at all?
        self._worked = False  # has it worked since it was opened?
        self._broken_at: float | None = None
        self._attempts = 0

    def works(self) -> None:
        """Note that the client has answered."""
        self._ever = self._worked = True
        self._broken_at = None
        self._attempts = 0

    async def __aenter__(self) -> ProbeClient:
        """Open, as often as it takes. Raises what is in the way when it is there to stay."""
        while True:
            opened = self._opener()
            self._worked = False
            try:
                if self._attempts:
                    await asyncio.sleep(_DELAY_S[min(self._attempts, len(_DELAY_S)) - 1])
                client = await opened.__aenter__()
            except UnreachableError as error:
                if not self._bears(error):
                    raise
            else:
                self._opened = opened
                return client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Close; True where the block is to be entered again."""
        opened, self._opened = self._opened, None
        if opened is None:
            return False
        try:
            await opened.__aexit__(kind, error, trace)
        except WireError as better:  # the way knows more of what happened
            if self._bears(better):
                return True
            raise
        return error is not None and self._bears(error)

    def _bears(self, error: BaseException) -> bool:
        """Whether another attempt is worth it."""
        if not self._lasting or not self._ever:
            return False
        if isinstance(error, DeniedError):
            return self._worked
        if not isinstance(error, UnreachableError):
            return False
        now = time.monotonic()
        self._attempts += 1
        if self._broken_at is None:
            self._broken_at = now
            self._tell(f"{error}; trying again")
        return now - self._broken_at < _GIVE_UP_S
