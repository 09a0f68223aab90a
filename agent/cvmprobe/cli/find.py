"""Which collector a verb asks: told by flags, else a living local run, else the cluster of the kubeconfig."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import typer

from cvmprobe.cli.cluster import ClusterWay, kubeconfig_there
from cvmprobe.cli.endpoint import given_connection, local_connection
from cvmprobe.cli.line import Way
from cvmprobe.cli.output import aside
from cvmprobe.errors import UnreachableError, UsageError
from cvmprobe.wire.client import ProbeClient
from cvmprobe.wire.identity import Access

__all__ = ["KUBECTL", "Where", "ask", "find", "located"]

_T = TypeVar("_T")
_PANEL: Final = "Which collector (default: the local run's, else the one in the cluster of the kubeconfig)"
_START_ONE: Final = "start one with 'cvmprobe run quick --local --keep'"
_OTHER_WAYS: Final = (
    "name a cluster that has cvmprobe with KUBECONFIG or --kubeconfig, or give --collector, --ca-file and --token-file"
)
KUBECTL: Final = "kubectl cvmprobe"
"""Name under which the command prefers the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The flags that say which collector is meant; each field is an option of every verb that asks one."""

    local: Annotated[bool, typer.Option("--local", help="The local run's.", rich_help_panel=_PANEL)] = False
    cluster: Annotated[
        bool, typer.Option("--cluster", help="The one in the kubeconfig's cluster.", rich_help_panel=_PANEL)
    ] = False
    kubeconfig: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Kubeconfig instead of $KUBECONFIG.", rich_help_panel=_PANEL)
    ] = None
    context: Annotated[
        str | None, typer.Option(metavar="NAME", help="Context instead of the current one.", rich_help_panel=_PANEL)
    ] = None
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", "-n", metavar="NAME", help="Namespace instead of cvmprobe.", rich_help_panel=_PANEL
        ),
    ] = None
    collector: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Its address.", rich_help_panel=_PANEL)] = (
        None
    )
    ca_file: Annotated[
        Path | None,
        typer.Option(help="With --collector: PEM file of the CA it must chain to.", rich_help_panel=_PANEL),
    ] = None
    token_file: Annotated[
        Path | None, typer.Option(help="With --collector: file with the token to show.", rich_help_panel=_PANEL)
    ] = None
    prefers_cluster: bool = False  # no flag: kubectl called us

    @property
    def names_cluster(self) -> bool:
        """Whether a flag says that the cluster is meant."""
        return self.cluster or any(value is not None for value in (self.kubeconfig, self.context, self.namespace))

    def check(self) -> None:
        """Raise UsageError where flags contradict each other."""
        if self.collector is None and (self.ca_file or self.token_file):
            raise UsageError("--ca-file and --token-file belong to --collector, which is missing")
        if sum((self.collector is not None, self.local, self.names_cluster)) > 1:
            raise UsageError(
                "--collector, --local and --cluster (with --kubeconfig, --context, --namespace) exclude each other"
            )


def located(verb: Callable[..., None], local: str | None = None) -> Callable[..., None]:
    """Give a verb the options of ``Where``, which reach it as its argument ``where``; ``local``: help for --local."""
    hints = get_type_hints(Where, include_extras=True)
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Where)
        if field.name != "prefers_cluster"
    ]
    if local is not None:
        options[0] = options[0].replace(annotation=Annotated[bool, typer.Option("--local", help=local)])
    own = [each for each in inspect.signature(verb).parameters.values() if each.name != "where"]
    context = inspect.Parameter("context_", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    @wraps(verb)
    def call(*, context_: typer.Context, **values: Any) -> None:  # typer has checked them against the options
        flags = {option.name: values.pop(option.name) for option in options}
        prefers_cluster = context_.find_root().info_name == KUBECTL
        verb(where=Where(**flags, prefers_cluster=prefers_cluster), **values)

    signature = inspect.Signature(
        [*(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), *options, context]
    )
    vars(call)["__signature__"] = signature  # where inspect, and so typer, looks first
    return call


def find(where: Where, access: Access) -> Way:
    """Return the way to the collector that is meant, and say which it is. Raises UsageError or UnreachableError."""
    where.check()
    if where.collector is not None:
        return given_connection(where.collector, where.ca_file, where.token_file)
    cluster = ClusterWay(access, where.kubeconfig, where.context, where.namespace)
    if where.names_cluster or (where.prefers_cluster and not where.local and kubeconfig_there()):
        return cluster
    try:
        local = local_connection()
    except UnreachableError as error:
        if where.local:
            raise UnreachableError(f"{error}; {_START_ONE}") from error
        if not kubeconfig_there():
            raise UnreachableError(f"{error}, and there is no kubeconfig; {_START_ONE}, or {_OTHER_WAYS}") from error
        return cluster
    if kubeconfig_there() and not where.local:
        aside(f"asking the local run (process {local.pid}); --cluster asks the one in the kubeconfig's cluster")
    return local


def ask(way: Way, question: Callable[[ProbeClient], Awaitable[_T]]) -> _T:
    """Put one question to a collector and return the answer."""

    async def put() -> _T:
        async with way.client() as client:
            return await question(client)

    return asyncio.run(put())
