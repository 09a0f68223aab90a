"""What the catalog knows of a probe, and how its parameters are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec.inspect import LiteralType, Metadata, StructType, type_info

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.window import Probe
from cvmprobe.probes.execution import Execution, Setup

__all__ = ["BESIDE", "Entry", "Metric", "read_parameters"]

P = TypeVar("P", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Metric:
    """One counter or histogram of a probe's windows. ``headline``: it stands in the result table."""

    name: str
    unit: str
    meaning: str
    headline: bool = False


BESIDE = (
    Metric("cpu_pressure_ns", "ns", "some task of the node waited for a CPU"),
    Metric("io_pressure_ns", "ns", "some task of the node waited for I/O"),
    Metric("memory_pressure_ns", "ns", "some task of the node waited for memory"),
    Metric("throttled_periods", "periods", "in which the CPU quotas of our cgroup, and those around it, stopped us"),
    Metric("throttled_ns", "ns", "how long they did"),
    Metric("steal_ns", "ns", "time of all CPUs that the hypervisor gave to others; only where it tells"),
    Metric("node_busy_ns", "ns", "of all CPUs: all but idle and waiting for I/O (with a peer, from 1 s on)"),
    Metric("node_irq_ns", "ns", "of it, serving interrupts"),
    Metric("node_softirq_ns", "ns", "of it, in softirq: where the kernel's network stack receives"),
    Metric("node_baseline_ns", "ns", "as busy as it was before the load, the node would have been so long"),
    Metric("responder_node_busy_ns", "ns", "the same of the responder's node (total only)"),
    Metric("responder_node_irq_ns", "ns", "the same of the responder's node (total only)"),
    Metric("responder_node_softirq_ns", "ns", "the same of the responder's node (total only)"),
    Metric("responder_node_baseline_ns", "ns", "the same of the responder's node (total only)"),
)
"""What may stand beside the metrics of every probe that runs under a lease, or by hand."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One probe: what it measures, what can be asked of it, how it is run, and what it may cost.

    ``parameters`` is a frozen msgspec struct with a default for each field. ``cost`` maps the
    parameters as text and the duration in ms to what an execution uses at the most.
    """

    probe: Probe
    title: str
    metrics: tuple[Metric, ...]
    parameters: type[msgspec.Struct]
    prepare: Callable[[Setup], Execution]
    cost: Callable[[Mapping[str, str], int], Cost]


def read_parameters(kind: type[P], probe: Probe, parameters: Mapping[str, str]) -> P:
    """Return the parameters of a probe as its struct, defaults filled in.

    Raises UsageError, which names the parameter that is unknown or has a bad value.
    """
    fields = kind.__struct_fields__
    values: dict[str, object] = {}
    for name, text in parameters.items():
        if name not in fields:
            raise UsageError(f"{probe} has no parameter {name!r}; it has {', '.join(fields)}")
        values[name] = text
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        name = where.rstrip("`")
        raise UsageError(
            f"{probe}: parameter {name} = {parameters.get(name)!r}: {_allowed(kind, name, what)}"
        ) from None


def _allowed(kind: type[msgspec.Struct], name: str, complaint: str) -> str:
    """Return the words that a parameter takes; where it takes any value in a range, the complaint that tells it."""
    struct = type_info(kind)
    fields = struct.fields if isinstance(struct, StructType) else ()
    described = next((field.type for field in fields if field.name == name), None)
    if isinstance(described, Metadata):
        described = described.type
    if isinstance(described, LiteralType):
        return f"say one of {', '.join(map(str, described.values))}"
    return complaint
