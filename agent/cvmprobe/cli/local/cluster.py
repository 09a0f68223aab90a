"""Start, watch over and end the children of a local run."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from cvmprobe.cli.endpoint import Connection, process_start
from cvmprobe.cli.local.child import Child
from cvmprobe.cli.local.settings import NODES, write_agent, write_collector, write_tokens
from cvmprobe.cli.local.state import LocalState, local_state
from cvmprobe.cli.program import AGENT, COLLECTOR, require
from cvmprobe.errors import UnreachableError, WireError
from cvmprobe.model.query import Attachment

__all__ = ["LocalCluster", "local_cluster"]

_T = TypeVar("_T")
_START_S: Final = 30.0  # a busy machine may take long; a child that dies is seen at once
_END_S: Final = 8.0  # longer than an agent's drain
_LOOK_S: Final = 0.02


@dataclass(slots=True)
class LocalCluster:
    """A collector that serves, with two agents that have attached."""

    connection: Connection
    collector: Child

    async def while_alive(self, work: Coroutine[None, None, _T]) -> _T:
        """Return what ``work`` returns; when the collector ends before that, raise what it said last."""
        return await _while_alive([self.collector], work)


@asynccontextmanager
async def local_cluster(
    volume: Path, say: Callable[[str], None], tell: Callable[[str], None]
) -> AsyncIterator[LocalCluster]:
    """Have a local cluster for as long as the context lasts; on the way out nothing of it stays.

    ``volume`` is a directory on the disk to be measured; ``say`` is told what is being waited for, and ``tell``
    what an agent said last that ended before its time. That spoils its measurements, and no other.
    """
    require(COLLECTOR)
    require(AGENT)
    with local_state(volume) as state:
        children: list[Child] = []
        try:
            say("starting a collector and two agents")
            tokens = write_tokens(state)
            children.append(await _child(state, "collector", COLLECTOR, write_collector(state)))
            connection = await _while_alive(children, _served(state, tokens.person))
            for node in NODES:
                config = write_agent(state, node, connection.address, connection.server_name, connection.ca_pem)
                children.append(await _child(state, node, AGENT, config))
            await _while_alive(children, _attached(connection))
            connection.write(state.endpoint_file)
            async with _mourned(children[1:], tell):
                yield LocalCluster(connection, children[0])
        finally:
            agents, collector = children[1:], children[:1]
            await asyncio.gather(*(child.end(_END_S) for child in agents))  # the collector takes in their last words
            await asyncio.gather(*(child.end(_END_S) for child in collector))


async def _child(state: LocalState, name: str, module: str, config: Path) -> Child:
    (state.state / name).mkdir(mode=0o700)
    return await Child.start(name, module, config, state.state / f"{name}.log")


async def _served(state: LocalState, token: str) -> Connection:
    """Wait until the collector serves, and return how to reach it."""
    path = state.state / "collector" / "endpoint.json"
    deadline = time.monotonic() + _START_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise UnreachableError(f"the collector did not serve within {_START_S:.0f} s; is this machine overloaded?")
        await asyncio.sleep(_LOOK_S)
    served = msgspec.json.decode(path.read_bytes(), type=_Served)
    pid = os.getpid()
    return Connection(
        address=served.address,
        server_name=served.server_name,
        ca_pem=served.ca_pem,
        token=token,
        pid=pid,
        started=process_start(pid) or "",
    )


class _Served(msgspec.Struct, frozen=True):
    """What a collector writes down once it serves."""

    address: str
    server_name: str
    ca_pem: str


async def _attached(connection: Connection) -> None:
    """Wait until both agents are attached."""
    deadline = time.monotonic() + _START_S
    async with connection.client() as client:
        while True:
            nodes = await client.list_nodes()
            there = {node.endpoint.node for node in nodes if node.attachment is Attachment.ATTACHED}
            missing = [node for node in NODES if node not in there]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise UnreachableError(f"{' and '.join(missing)} did not attach within {_START_S:.0f} s")
            await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def _mourned(agents: list[Child], tell: Callable[[str], None]) -> AsyncIterator[None]:
    """Tell of each agent that ends within the context; the collector sees to what that means for a run."""

    async def mourn(agent: Child) -> None:
        tell(f"{await agent.died()}; what it was to measure from now on will be missing")

    vigils = [asyncio.ensure_future(mourn(agent)) for agent in agents]
    try:
        yield
    finally:
        for vigil in vigils:
            vigil.cancel()
        await asyncio.gather(*vigils, return_exceptions=True)


async def _while_alive(children: list[Child], work: Coroutine[None, None, _T]) -> _T:
    task = asyncio.ensure_future(work)
    deaths = [asyncio.ensure_future(child.died()) for child in children]
    try:
        await asyncio.wait([task, *deaths], return_when=asyncio.FIRST_COMPLETED)
        if task.done() and isinstance(task.exception(), WireError):
            await asyncio.wait(deaths, timeout=1, return_when=asyncio.FIRST_COMPLETED)  # a broken wire has a cause
        dead = next((death for death in deaths if death.done()), None)
        if dead is not None and not (task.done() and task.exception() is None):
            raise dead.result()
        return await task
    finally:
        for future in (task, *deaths):
            future.cancel()
        await asyncio.gather(task, *deaths, return_exceptions=True)
