"""What an agent shows of itself: its own ListNodes, ListProbes and Watch rpcs."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from cvmprobe.model.query import Missed, NodeStatus, ProbeStatus, Selection
from cvmprobe.model.window import InstanceKey, SampleBlock, Window
from cvmprobe.wire.feed import Feed

__all__ = ["Live"]

_WINDOWS: Final = 1_024  # held for a slow watcher
_BLOCKS: Final = 16
_PROBES: Final = 256  # the last ones remembered


class Live:
    """Implements ``wire.handler.LiveHandler`` for one agent; ``status`` tells how the agent stands."""

    def __init__(self, status: Callable[[], NodeStatus]) -> None:
        self._status = status
        self._windows: Feed[Window] = Feed(_WINDOWS)
        self._samples: Feed[SampleBlock] = Feed(_BLOCKS)
        self._probes: dict[InstanceKey, ProbeStatus] = {}

    def publish(self, windows: Iterable[Window]) -> None:
        """Show windows as they are cut."""
        for window in windows:
            self._note(window)
            self._windows.publish(window)

    def publish_samples(self, blocks: Iterable[SampleBlock]) -> None:
        """Show raw samples."""
        for block in blocks:
            self._samples.publish(block)

    async def list_nodes(self) -> Sequence[NodeStatus]:
        """List this endpoint alone."""
        return [self._status()]

    async def list_probes(self, selection: Selection) -> Sequence[ProbeStatus]:
        """List the selected probe instances that run, or last ran."""
        return [status for status in self._probes.values() if selection.selects(status.instance)]

    def watch_windows(self, selection: Selection) -> AsyncIterator[Window | Missed]:
        """Yield selected windows from now on."""
        return self._windows.watch(selection.matches)

    def watch_samples(self, selection: Selection) -> AsyncIterator[SampleBlock | Missed]:
        """Yield raw samples of the selected instances from now on."""
        return self._samples.watch(lambda block: selection.selects(block.instance))

    def _note(self, window: Window) -> None:
        key = window.instance.key
        known = self._probes.pop(key, None) or ProbeStatus(window.instance, 0, 0)
        self._probes[key] = replace(known, windows=known.windows + 1, last_end_unix_ms=window.end_unix_ms)
        if len(self._probes) > _PROBES:
            del self._probes[next(iter(self._probes))]
