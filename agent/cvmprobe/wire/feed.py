"""One publisher, many watchers: each has its own bounded queue, so a slow one slows nobody."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from cvmprobe.model.query import Missed

__all__ = ["Feed"]

T = TypeVar("T")


class Feed(Generic[T]):
    """Hands every published item to every watcher that wants it. For use within one event loop.

    A watcher whose queue is full loses its oldest items, and finds ``Missed(count)`` in their place.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._watchers: set[_Watcher[T]] = set()

    @property
    def watched(self) -> bool:
        """Whether anybody watches: a publisher may spare itself the work."""
        return bool(self._watchers)

    def publish(self, item: T) -> None:
        """Offer ``item`` to all watchers; never blocks."""
        for watcher in self._watchers:
            watcher.offer(item)

    async def watch(self, wanted: Callable[[T], bool]) -> AsyncIterator[T | Missed]:
        """Items published from the first step on that are ``wanted``; never ends by itself."""
        watcher = _Watcher(wanted, self._depth)
        self._watchers.add(watcher)
        try:
            while True:
                yield await watcher.take()
        finally:
            self._watchers.discard(watcher)


class _Watcher(Generic[T]):
    """One watcher's queue: the newest ``depth`` items, and how many older ones it lost before them."""

    def __init__(self, wanted: Callable[[T], bool], depth: int) -> None:
        self._wanted = wanted
        self._queue: deque[T] = deque(maxlen=depth)
        self._missed = 0
        self._filled = asyncio.Event()

    def offer(self, item: T) -> None:
        if not self._wanted(item):
            return
        self._missed += len(self._queue) == self._queue.maxlen
        self._queue.append(item)
        self._filled.set()

    async def take(self) -> T | Missed:
        await self._filled.wait()
        if self._missed:
            missed, self._missed = Missed(self._missed), 0
            return missed
        item = self._queue.popleft()
        if not self._queue:
            self._filled.clear()
        return item
