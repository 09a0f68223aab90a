"""Windows as they come; where the way broke, those of the meantime come from the store, each window once."""

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Final

from cvmprobe.cli.line import Line
from cvmprobe.model.query import Missed, Selection, TimeRange
from cvmprobe.model.window import InstanceKey, Window
from cvmprobe.wire.client import ProbeClient

__all__ = ["follow"]

_INSTANCES: Final = 16_384  # whose newest window is remembered
_RECENT_S: Final = 60.0  # an instance that has been silent for longer may have ended
_LEASE_MS: Final = 60_000  # about as long as one shows previews, before its windows come complete


async def follow(
    line: Line, wanted: Selection, tell: Callable[[str], None], *, stored: bool
) -> AsyncGenerator[Window, None]:
    """Yield selected windows from now on, for as long as the line holds.

    ``tell`` hears what was missed. ``stored``: who serves the windows keeps them, too; an agent itself does not.
    """
    shown = _Shown()
    again = False
    while True:
        async with line as client, client.watching(wanted) as live:
            line.works()
            fetched: list[Window] = []
            if again and stored:
                span = TimeRange(start_unix_ms=shown.since_unix_ms())
                fetched = shown.unseen([window async for window in client.query_windows(wanted, span)])
                tell(f"watching again; nothing is missing: {len(fetched)} windows of the meantime come from the store")
            elif stored and wanted.nodes:
                await _tell_unknown(client, wanted.nodes, tell)
            elif again:
                tell("watching again; what the agent cut meanwhile is missing here, not at the collector")
            for window in fetched:
                shown.add(window)
                yield window
            both = {(window.instance.key, window.end_unix_ms) for window in fetched}
            async for item in live:
                if isinstance(item, Missed):
                    tell(f"missed {item.count} windows: they came faster than they could be shown")
                elif (item.instance.key, item.end_unix_ms) not in both:
                    shown.add(item)
                    yield item
        again = True


async def _tell_unknown(client: ProbeClient, nodes: Sequence[str], tell: Callable[[str], None]) -> None:
    """Say which nodes nobody knows: one may come later, but who mistyped its name would wait for ever."""
    known = {status.endpoint.node for status in await client.list_nodes()}
    if unknown := sorted({*nodes} - known):
        tell(f"waiting: no node {', '.join(unknown)} is known; known are {', '.join(sorted(known)) or 'none'}")


class _Shown:
    """The newest window of each instance that was shown, and when."""

    def __init__(self) -> None:
        self._oldest_unix_ms: int | None = None
        self._began_unix_ms = time.time_ns() // 1_000_000
        self._newest: OrderedDict[InstanceKey, tuple[float, Window]] = OrderedDict()  # the longest silent first

    def add(self, window: Window) -> None:
        if self._oldest_unix_ms is None or window.end_unix_ms < self._oldest_unix_ms:
            self._oldest_unix_ms = window.end_unix_ms
        key = window.instance.key
        self._newest[key] = time.monotonic(), window
        self._newest.move_to_end(key)
        if len(self._newest) > _INSTANCES:
            self._newest.popitem(last=False)

    def since_unix_ms(self) -> int:
        """From which window end on some may not have been shown; every node has a clock of its own."""
        if self._oldest_unix_ms is None:
            return self._began_unix_ms
        entries = [*self._newest.values()]
        newest_s = entries[-1][0]
        recent = min(window.end_unix_ms for seen_s, window in entries if newest_s - seen_s <= _RECENT_S)
        return max(recent - _LEASE_MS, self._oldest_unix_ms)

    def unseen(self, stored: Iterable[Window]) -> list[Window]:
        """Leave out what was shown. Where an instance was shown in previews, its windows themselves are yet to come."""
        kept = list(stored)
        previewed = {
            key
            for window in kept
            if (last := self._last(key := window.instance.key)) is not None
            and last.end_unix_ms == window.end_unix_ms
            and last != window
        }
        return [window for window in kept if window.instance.key in previewed or self._is_new(window)]

    def _is_new(self, window: Window) -> bool:
        last = self._last(window.instance.key)
        return last is None or window.end_unix_ms > last.end_unix_ms

    def _last(self, key: InstanceKey) -> Window | None:
        entry = self._newest.get(key)
        return None if entry is None else entry[1]
