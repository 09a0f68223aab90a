"""One publisher, many watchers: each has its own bounded queue, so a slow one slows nobody."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar
from weakref import WeakSet

from cvmprobe.model.query import Missed

__all__ = ["Feed"]

T = TypeVar("T")


class Feed(Generic[T]):
    """Hands every published item to every watcher that wants it. For use within one event loop.

    A watcher's queue holds ``depth`` items, or fewer where ``weigh`` finds them heavier than ``weight`` together.
    When it is full, the watcher loses its oldest items, and finds ``Missed(count)`` in their place.
    """

    def __init__(self, depth: int, weight: int | None = None, weigh: Callable[[T], int] = lambda _: 1) -> None:
        self._depth = depth
        self._weight = depth if weight is None else weight
        self._weigh = weigh
        self._watchers: WeakSet[_Watcher[T]] = WeakSet()  # one that was never stepped goes with its iterator

    @property
    def watched(self) -> bool:
        """Whether anybody watches: a publisher may spare itself the work."""
        return bool(self._watchers)

    def publish(self, item: T) -> None:
        """Offer ``item`` to all watchers; never blocks."""
        if not self._watchers:
            return
        weight = self._weigh(item)
        for watcher in self._watchers:
            watcher.offer(item, weight)

    def watch(self, wanted: Callable[[T], bool]) -> AsyncIterator[T | Missed]:
        """Items published from now on that are ``wanted``; never ends by itself."""
        watcher = _Watcher(wanted, self._depth, self._weight)
        self._watchers.add(watcher)
        return self._items(watcher)

    async def _items(self, watcher: "_Watcher[T]") -> AsyncIterator[T | Missed]:
        try:
            while True:
                yield await watcher.take()
        finally:
            self._watchers.discard(watcher)


class _Watcher(Generic[T]):
    """One watcher's queue: the newest items that fit, and how many older ones it lost before them."""

    def __init__(self, wanted: Callable[[T], bool], depth: int, weight: int) -> None:
        self._wanted = wanted
        self._depth = depth
        self._room = weight
        self._queue: deque[tuple[T, int]] = deque()
        self._missed = 0
        self._filled = asyncio.Event()

    def offer(self, item: T, weight: int) -> None:
        if not self._wanted(item):
            return
        while self._queue and (len(self._queue) == self._depth or weight > self._room):
            self._pop()
            self._missed += 1
        self._queue.append((item, weight))
        self._room -= weight
        self._filled.set()

    async def take(self) -> T | Missed:
        await self._filled.wait()
        if self._missed:
            missed, self._missed = Missed(self._missed), 0
            return missed
        item = self._pop()
        if not self._queue:
            self._filled.clear()
        return item

    def _pop(self) -> T:
        item, weight = self._queue.popleft()
        self._room += weight
        return item
