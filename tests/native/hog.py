"""A GIL hog, and the same hog in another process: both take a CPU, only one takes the interpreter.

A figure that native code makes must come out the same beside either.
"""

import contextlib
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator


def spin(stop: Callable[[], bool]) -> None:
    """Hold the interpreter as tightly as Python can."""
    while not stop():
        for _ in range(1000):
            pass


@contextlib.contextmanager
def hog_inside() -> Iterator[None]:
    """Spin in a thread of this process."""
    stop = threading.Event()
    hog = threading.Thread(target=spin, args=(stop.is_set,), name="gil-hog")
    hog.start()
    try:
        yield
    finally:
        stop.set()
        hog.join()


@contextlib.contextmanager
def hog_outside() -> Iterator[None]:
    """Spin in a process of its own, which ends with its standard input."""
    program = (
        "import sys, threading\n"
        "print('ready', flush=True)\n"
        "stop = threading.Event()\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()\n"
        "while not stop.is_set():\n"
        "    for _ in range(1000):\n"
        "        pass\n"
    )
    hog = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert hog.stdout.readline() == b"ready\n"
        yield
    finally:
        hog.communicate()


def hog_ratios(measure: Callable[[], float], pairs: int = 5) -> list[float]:
    """Measure beside the hog inside and outside, in alternating order; return inside / outside of each pair."""
    ratios = []
    for pair in range(pairs):
        taken = {}
        for hog in [hog_inside, hog_outside][:: 1 if pair % 2 == 0 else -1]:
            with hog():
                taken[hog] = measure()
        ratios.append(taken[hog_inside] / taken[hog_outside])
    return ratios


def report(name: str, ratios: list[float]) -> str:
    """Say side by side what came out, for the test's output."""
    return f"{name}: hog inside / outside: median {statistics.median(ratios):.2f} of {[round(r, 2) for r in ratios]}"
