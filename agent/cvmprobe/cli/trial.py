"""One execution of a probe in this process: windows as they end, Ctrl-C as a stop that keeps what is there."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from cvmprobe.cli.interrupt import interrupts
from cvmprobe.model.window import Window
from cvmprobe.probes.execution import Execution, Result

__all__ = ["Trial", "run_trial"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What an execution left. ``interrupted`` is the signal that ended it, None where nothing did."""

    result: Result
    interrupted: int | None


def run_trial(execution: Execution, on_window: Callable[[Window], None]) -> Trial:
    """Run to the end, or until a signal; ``on_window`` is called here for each window as it ends."""
    events: SimpleQueue[Window | int | BaseException | None] = SimpleQueue()
    interrupted: int | None = None

    def observe() -> None:
        try:
            for window in execution.observe():
                events.put(window)
        except BaseException as error:  # noqa: BLE001 - raised again where it is seen
            events.put(error)
        else:
            events.put(None)

    thread = threading.Thread(target=observe, name="observe")
    with interrupts(events.put):
        thread.start()
        try:
            while (event := events.get()) is not None:
                if isinstance(event, Window):
                    on_window(event)
                elif isinstance(event, BaseException):
                    raise event
                else:
                    interrupted = interrupted or event
                    execution.stop()
        finally:
            execution.stop()
            thread.join()
    return Trial(execution.result(), interrupted)
