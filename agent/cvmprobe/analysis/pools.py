"""Nodes that ought to be alike and are not: figures of one pool can only be compared where its nodes agree."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from cvmprobe.model.environment import Environment

__all__ = ["disagreements"]

_COMPARED = (
    ("kernel", "kernel"),
    ("kernel_options", "kernel options"),
    ("cpu_model", "CPU"),
    ("smt_active", "SMT"),
    ("clocksource", "clocksource"),
    ("engine_io_uring", "io_uring"),
    ("tcp_congestion_control", "congestion control"),
)


def disagreements(nodes: Mapping[str, Environment]) -> tuple[str, ...]:
    """Return a line for each thing in which nodes of one pool (instance type, where known) differ, by node.

    What is unknown of a node is no difference.
    """
    pools: defaultdict[str, dict[str, Environment]] = defaultdict(dict)
    for name, environment in nodes.items():
        pools[environment.value("instance_type") or ""][name] = environment
    return tuple(line for pool in sorted(pools) for line in _within(pool, pools[pool]))


def _within(pool: str, nodes: Mapping[str, Environment]) -> Iterator[str]:
    where = f" of pool {pool}" if pool else ""
    for title, values in _compared(nodes):
        holders: defaultdict[str, list[str]] = defaultdict(list)
        for node, value in sorted(values.items()):
            holders[value].append(node)
        if len(holders) > 1:
            common, *rare = sorted(holders, key=lambda value: (-len(holders[value]), value))
            odd = "; ".join(f"{', '.join(holders[value])}: {value}" for value in rare)
            yield f"nodes{where} differ in {title}: {odd}; others ({len(holders[common])}): {common}"


def _compared(nodes: Mapping[str, Environment]) -> Iterator[tuple[str, dict[str, str]]]:
    yield "TEE", {node: environment.tee.kind for node, environment in nodes.items()}
    for fact, title in _COMPARED:
        yield title, {node: value for node, environment in nodes.items() if (value := environment.value(fact))}
