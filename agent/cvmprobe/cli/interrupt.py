"""Ctrl-C and its kin as a cancellation: what is being done ends in good order, then the exit code tells."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["interrupts", "run_to_the_end"]

_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def interrupts(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Hand Ctrl-C and its kin to ``on_signal`` for as long as the block lasts; it must be quick."""
    before = {number: signal.signal(number, lambda caught, _: on_signal(caught)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_to_the_end(
    work: Callable[[], Coroutine[None, None, int]], done: Callable[[], int | None], *, insistent: bool = False
) -> int:
    """Run ``work`` and return its exit code; a signal cancels it, once, and a second one is ignored.

    ``insistent``: a second one cancels, too, what it does at its end. After a signal the code is 128 + its number,
    unless ``done`` tells that all that was asked for is there.
    """
    return asyncio.run(_run(work, done, insistent=insistent))


async def _run(
    work: Callable[[], Coroutine[None, None, int]], done: Callable[[], int | None], *, insistent: bool
) -> int:
    caught: list[int] = []
    task = asyncio.create_task(work())

    def interrupt(number: int) -> None:
        if insistent or not caught:
            task.cancel()
        caught.append(number)

    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # on Windows asyncio itself makes a cancellation of Ctrl-C
        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupt, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not caught:
            raise
        code = done()
        return 128 + caught[0] if code is None else code
