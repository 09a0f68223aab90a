"""One execution of a probe in a thread of its own: whatever it does, it ends in an Outcome."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from cvmprobe.errors import ProbeError
from cvmprobe.model.window import Flag, Instance, SampleBlock, Window
from cvmprobe.probes.execution import Execution, Setup

__all__ = ["Outcome", "Post", "Prepare", "Running", "spoiled"]

_LOG: Final = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]
"""Hands a call over to the event loop, from any thread."""

Prepare = Callable[[Setup], Execution]
"""Checks a setup and makes its execution: ``probes.catalog.prepare``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an execution left. ``error`` is one line; empty: it ended by itself, and well."""

    windows: tuple[Window, ...] = ()
    samples: tuple[SampleBlock, ...] = ()
    totals: dict[str, int] = field(default_factory=dict)
    error: str = ""


class Running:
    """Runs ``prepare()``'s execution; both callbacks are called through ``post``, ``on_end`` exactly once and last.

    ``keep``: hold the windows for the outcome, as a lease wants it; else each is handed over once and forgotten.
    ``seen`` are those held so far, still without what only the end can tell.
    """

    def __init__(
        self,
        instance: Instance,
        prepare: Callable[[], Execution],
        *,
        keep: bool,
        post: Post,
        on_window: Callable[[Window], None],
        on_end: Callable[[Outcome], None],
    ) -> None:
        self.instance = instance
        self._prepare = prepare
        self.seen: list[Window] = []
        self._keep = keep
        self._post = post
        self._on_window = on_window
        self._on_end = on_end
        self._lock = threading.Lock()
        self._execution: Execution | None = None
        self._stopping = False
        name = f"{instance.probe}-{instance.assignment_id[:8]}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make it end soon; from the event loop, twice is fine."""
        with self._lock:
            self._stopping = True
            execution = self._execution
        if execution is not None:  # joining the engine's threads may take 200 ms, which the event loop has not
            threading.Thread(target=execution.stop, name="stop", daemon=True).start()

    def _run(self) -> None:
        try:
            outcome = self._observe()
        except ProbeError as error:
            outcome = Outcome(spoiled(self.seen), error=str(error))
        except Exception as error:  # noqa: BLE001 - whatever a probe does, the agent goes on
            _LOG.exception("probe failed unexpectedly probe=%s", self.instance.probe)
            outcome = Outcome(spoiled(self.seen), error=f"{self.instance.probe}: {type(error).__name__}: {error}")
        self._post(lambda: self._on_end(outcome))

    def _observe(self) -> Outcome:
        execution = self._prepare()
        with self._lock:
            self._execution = execution
            stopping = self._stopping
        if stopping:
            execution.stop()
        for window in execution.observe():
            if self._keep:
                self.seen.append(window)
            self._hand_over(window)
        result = execution.result()
        windows = result.windows if self._keep else ()
        if result.error is None:
            return Outcome(windows, result.samples, dict(result.totals))
        return Outcome(spoiled(windows), result.samples, dict(result.totals), str(result.error))

    def _hand_over(self, window: Window) -> None:
        self._post(lambda: self._on_window(window))


def spoiled(windows: tuple[Window, ...] | list[Window]) -> tuple[Window, ...]:
    """Flag the windows of an execution that did not come to its end."""
    return tuple(replace(window, flags=window.flags | {Flag.CUT}) for window in windows)
