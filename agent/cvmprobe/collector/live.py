"""What happens now: windows, previews and samples handed on to those who watch, and what each probe last did."""

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable

from cvmprobe.model.endpoint import Endpoint
from cvmprobe.model.query import Missed, ProbeStatus
from cvmprobe.model.window import Instance, InstanceKey, SampleBlock, Window
from cvmprobe.wire.feed import Feed

__all__ = ["Live", "Wanted"]

_WINDOWS = 1_024  # a watcher may be behind by so many before it misses some
_WINDOWS_BYTES = 32 << 20  # or by so much: an agent may make them large
_BLOCKS = 64
_PROBES = 4_096

Wanted = Callable[[Instance], bool]


class Live:
    """One publisher for all watchers. A slow watcher finds ``Missed`` in place of what it lost."""

    def __init__(self) -> None:
        self._windows: Feed[Window] = Feed(_WINDOWS, _WINDOWS_BYTES, lambda window: window.weight)
        self._samples: Feed[SampleBlock] = Feed(_BLOCKS)
        self._probes: OrderedDict[InstanceKey, ProbeStatus] = OrderedDict()
        self._of_source: Counter[Endpoint] = Counter()

    def window(self, window: Window, *, preview: bool = False) -> None:
        """Hand on a window. A preview is a first look: the same window comes again, complete, once it is stored."""
        instance = window.instance
        known = self._probes.pop(instance.key, None)
        counted = (known.windows if known else 0) + (not preview)
        last_ms = max(window.end_unix_ms, known.last_end_unix_ms if known else 0)
        self._probes[instance.key] = ProbeStatus(instance, counted, last_ms)
        self._of_source[instance.source] += known is None
        if len(self._probes) > _PROBES:
            self._forget_one()
        self._windows.publish(window)

    def _forget_one(self) -> None:
        """Forget the oldest of the endpoint that has the most: one that says much costs itself alone."""
        ((most, _),) = self._of_source.most_common(1)
        del self._probes[next(key for key, status in self._probes.items() if status.instance.source == most)]
        self._of_source[most] -= 1

    def block(self, block: SampleBlock) -> None:
        """Hand on raw operations."""
        self._samples.publish(block)

    def watch_windows(self, wanted: Wanted) -> AsyncIterator[Window | Missed]:
        """Yield windows of wanted instances from now on."""
        return self._windows.watch(lambda window: wanted(window.instance))

    def watch_samples(self, wanted: Wanted) -> AsyncIterator[SampleBlock | Missed]:
        """Yield raw operations of wanted instances from now on."""
        return self._samples.watch(lambda block: wanted(block.instance))

    def probes(self, wanted: Wanted) -> list[ProbeStatus]:
        """List wanted instances that were heard of since the start of the collector, by source and age."""
        selected = (status for status in self._probes.values() if wanted(status.instance))
        return sorted(selected, key=lambda status: status.instance.source)
