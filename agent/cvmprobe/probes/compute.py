"""The compute probe: fixed work of one kind over and over, and what a unit of it takes on this node."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.window import Probe, Window
from cvmprobe.probes.entry import Entry, Metric, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.engine import Engine

__all__ = ["ENTRY", "ComputeParameters", "notes_on", "size_of"]

_MIB = 1 << 20
_BEYOND = 4  # memory of this many last-level caches is out of their reach
_PARTLY = 2  # of fewer than these, much is in reach
_LARGEST_BYTES = 512 * _MIB  # so that an agent stays within its memory limit; also where no cache is told of
_SMALLEST_BYTES = 64 * _MIB
_SHARE_OF_FREE = 4  # no more than a quarter of what is free
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_PREPARE_S = 5.0  # filling the memory and calibrating
_SIZED = frozenset({"chase", "triad"})

Kernel = Literal["integer", "chase", "triad", "aes", "page_fault", "syscall", "wakeup", "cpuid"]


class ComputeParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the compute probe."""

    kernel: Annotated[Kernel, Meta(description="the work that is repeated")] = "integer"
    level: Annotated[
        Literal["l1", "l2", "l3", "memory"],
        Meta(description="chase and triad: half of this cache of the node; memory: four times the last one"),
    ] = "memory"
    size_bytes: Annotated[int, Meta(ge=0, le=1 << 36, description="chase and triad: memory; 0: as level says")] = 0
    engine: Annotated[
        Literal["auto", "aes-ni", "aes-plain"], Meta(description="aes: what does it; auto: the first this node has")
    ] = "auto"
    repetitions: Annotated[int, Meta(ge=1, le=10_000, description="how often the work is done and timed")] = 10
    repetition_ms: Annotated[int, Meta(ge=1, le=60_000, description="about how long one repetition takes")] = 1000
    placement: Annotated[str, Meta(description="inherit, same, split, or a CPU list such as 0,2-3")] = "inherit"


class _ComputeFace:
    """Finds the size of memory that a level means on this node."""

    operations: Sequence[str] = ()
    omit_ms = 0

    def __init__(self, setup: Setup, parameters: ComputeParameters) -> None:
        self._setup = setup
        self._parameters = parameters

    def open(self, stopping: Callable[[], bool]) -> "Engine":  # noqa: ARG002 - arming takes a second at the most
        from cvmprobe.native.compute import Compute

        asked = self._parameters
        sized = asked.kernel in _SIZED
        size_bytes = size_of(asked) if sized else 0
        engine = Compute(
            kernel=asked.kernel,
            engine=asked.engine,
            size_bytes=size_bytes,
            repetition_ms=asked.repetition_ms,
            repetitions=asked.repetitions,
            placement=asked.placement,
            duration_ms=self._setup.duration_ms,
            notes=notes_on(asked, size_bytes) if sized else {},
        )
        engine.arm()
        return engine

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        return Completed(windows, totals)

    def close(self) -> None:
        """Nothing was made beside the engine."""


def size_of(parameters: ComputeParameters, caches: Path = _CACHES) -> int:
    """Return the bytes of memory that are asked for, or that the level means where the kernel tells of its caches."""
    if parameters.size_bytes:
        return parameters.size_bytes
    sizes = _cache_bytes(caches)
    if parameters.level == "memory":
        last = sizes[max(sizes)] if sizes else _LARGEST_BYTES
        import psutil

        free = psutil.virtual_memory().available // _SHARE_OF_FREE
        return min(max(_BEYOND * last, _SMALLEST_BYTES), _LARGEST_BYTES, free)
    level = int(parameters.level[1:])
    if level not in sizes:
        raise UsageError(
            f"compute: parameter level = {parameters.level!r}: {caches} tells of no such cache; give size_bytes"
        )
    return sizes[level] // 2


def notes_on(parameters: ComputeParameters, size_bytes: int, caches: Path = _CACHES) -> dict[str, str]:
    """Return facts of the memory: its pages, the last cache, and why what should be beyond it is not, or may not be."""
    notes = {"pages": "small"}
    sizes = _cache_bytes(caches)
    last = sizes[max(sizes)] if sizes else None
    if last is not None:
        notes["last_cache_bytes"] = str(last)
    if parameters.level != "memory" or parameters.size_bytes:
        return notes
    if last is None:
        notes["fallback"] = f"the kernel tells of no cache: {size_bytes} bytes may be within one"
    elif size_bytes < _PARTLY * last:
        notes["fallback"] = f"{size_bytes} bytes are not far beyond the last cache of {last}: give size_bytes"
    return notes


def _cache_bytes(caches: Path) -> dict[int, int]:
    """Return the size of each level's data cache, as the kernel tells it; nothing where it does not."""
    sizes: dict[int, int] = {}
    for cache in caches.glob("index*"):
        try:
            kind, level, size = ((cache / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return sizes


def _read(parameters: Mapping[str, str]) -> ComputeParameters:
    read = read_parameters(ComputeParameters, Probe.COMPUTE, parameters)
    given = [name for name in ("level", "size_bytes") if name in parameters]
    if given and read.kernel not in _SIZED:
        raise UsageError(f"compute: parameter {given[0]}: kernel {read.kernel} has no size; leave it out")
    if read.engine != "auto" and read.kernel != "aes":
        raise UsageError(f"compute: parameter engine = {read.engine!r}: only kernel aes has a choice; leave it out")
    return read


def _prepare(setup: Setup) -> Execution:
    return Execution(setup, _ComputeFace(setup, _read(setup.instance.parameters)))


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    _read(parameters)
    return Cost(duration_ms / 1000 + _PREPARE_S, 0, 0)


ENTRY = Entry(
    probe=Probe.COMPUTE,
    title="Fixed work of the processor, its memory and its kernel: the time of one unit",
    metrics=(
        Metric("unit_fs", "fs", "of each repetition, its time by its units of work", headline=True),
        Metric("repetitions", "repetitions", "that were brought to their end"),
        Metric("work_units", "units", "work of the whole repetitions; the fact unit says of what"),
        Metric("busy_ns", "ns", "time of the whole repetitions"),
        Metric("frequency_khz", "kHz", "of the processor after each repetition, where the kernel tells"),
        Metric("cpu_ns", "ns", "CPU time of the engine's threads, with what is in no repetition"),
        Metric("run_delay_ns", "ns", "how long the engine's threads were ready and had no CPU"),
    ),
    parameters=ComputeParameters,
    prepare=_prepare,
    cost=_cost,
)
