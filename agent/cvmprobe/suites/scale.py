"""A suite made shorter for tests: durations and sizes times a scale; the run's ``scale`` says so."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Step, Suite
from cvmprobe.model.window import Probe

__all__ = ["scaled"]

_MIB = 1 << 20
_MOST_REPEATS = 1_000
_STEADY_INTERVALS = 2  # what must remain after the warm-up for a figure to exist


def scaled(suite: Suite, scale: float, repeats: int | None = None) -> Suite:
    """Return ``suite`` with durations and file sizes times ``scale``, in (0, 1]; 1 changes nothing.

    ``repeats`` of everything, as many as asked for; None: as many as the suite says.

    Durations and warm-ups stay multiples of the interval, files of 1 MiB; two steady intervals always remain.
    """
    if not 0 < scale <= 1:
        raise UsageError(f"scale must be above 0 and at most 1, but is {scale:g}")
    if repeats is not None:
        if not 1 <= repeats <= _MOST_REPEATS:
            raise UsageError(f"repeats must be 1 to {_MOST_REPEATS}, but are {repeats}")
        suite = replace(suite, repeats=repeats)
    if scale == 1:
        return suite
    return replace(suite, steps=tuple(_scaled_step(step, scale, suite.interval_ms) for step in suite.steps))


def _scaled_step(step: Step, scale: float, interval_ms: int) -> Step:
    parameters = _scaled_parameters(step.parameters, scale, interval_ms)
    halves = 2 if step.probe is Probe.LOADED_RR else 1  # each with a warm-up of its own
    shortest = halves * (int(parameters.get("omit_ms", "0")) + _STEADY_INTERVALS * interval_ms)
    duration_ms = max(_up(step.duration_ms * scale, interval_ms), shortest)
    return replace(step, duration_ms=min(duration_ms, step.duration_ms), parameters=parameters)


def _scaled_parameters(parameters: Mapping[str, str], scale: float, interval_ms: int) -> dict[str, str]:
    units = {"omit_ms": interval_ms, "file_bytes": _MIB, "repetition_ms": 1}
    return {
        name: str(_up(int(value) * scale, units[name])) if name in units else value
        for name, value in parameters.items()
    }


def _up(value: float, unit: int) -> int:
    return ceil(value / unit) * unit
