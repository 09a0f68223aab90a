"""cvmprobe doctor: what a node is, and whether measuring is sound on it."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from cvmprobe.analysis.diagnosis import diagnose, examination_record, finding_record, is_sound
from cvmprobe.cli.find import Where, ask, find, located
from cvmprobe.cli.output import Format, FormatOption, show
from cvmprobe.cli.program import AGENT, require
from cvmprobe.errors import RefusedError, UsageError
from cvmprobe.model.endpoint import Role
from cvmprobe.model.environment import Environment
from cvmprobe.model.query import NodeStatus
from cvmprobe.node.page import page
from cvmprobe.wire.identity import Access

__all__ = ["HELP", "doctor"]

HELP: Final = """
Say what this machine is, which engines work on it, and what each missing right costs.

Look at this machine and at the disks below a directory; or at a node of a running cluster, as its agent found it:

    cvmprobe doctor --volume /var/lib/data

    cvmprobe doctor --node worker-1

Exit codes: 0 measuring is sound, 1 it is not, 2 wrong usage.
"""


@located
def doctor(
    where: Where,
    volume: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Look at what lies below this directory too.")
    ] = None,
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="Ask a collector about this node, instead of looking here.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Print the doctor's page, and exit with its verdict."""
    name = node or platform.node()
    found = _here(where, volume or []) if node is None else _there(where, node, volume or [])
    findings = diagnose(found)
    rows = [finding_record(finding) for finding in findings]
    show(form, Text(page(name, found, findings)), examination_record(name, found), rows)
    if not is_sound(findings):
        raise typer.Exit(1)


def _here(where: Where, volumes: list[Path]) -> Environment:
    if where.collector is not None or where.local or where.names_cluster:
        raise UsageError("which node? Give --node NODE, or leave out the flags that name a collector")
    require(AGENT)
    from cvmprobe.node.doctor import examine, named_volumes

    return examine(named_volumes(volumes))


def _there(where: Where, name: str, volumes: list[Path]) -> Environment:
    """Return what a node's agent found when it started; its peer, which has no volumes, only where that is all."""
    if volumes:
        raise UsageError("--volume looks here, and --node elsewhere: an agent tells of the volumes it was given")
    nodes = ask(find(where, Access.VIEWER), lambda client: client.list_nodes())
    ours = [node for node in nodes if node.endpoint.node == name]
    if not ours:
        raise UsageError(f"--node {name}: no such node; there are {', '.join(_names(nodes)) or 'none'}")
    ours.sort(key=lambda node: node.endpoint.role is not Role.POD)
    told = next((node.environment for node in ours if node.environment is not None), None)
    if told is None:
        raise RefusedError(f"node {name} has no agent that was ever heard, so nothing is known of it")
    return told


def _names(nodes: Sequence[NodeStatus]) -> list[str]:
    return sorted({node.endpoint.node for node in nodes})
