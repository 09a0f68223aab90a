"""What agents send: numbered windows towards the store, everything else to those who wait for it.

A number that is skipped is declared lost at once; a stream that ends without Bye leaves an open gap; nothing
is acknowledged before it is committed. So numbered = stored + pending + lost, at every moment.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from cvmprobe.collector.live import Live
from cvmprobe.collector.roster import Attached, Roster
from cvmprobe.collector.surroundings import Surroundings
from cvmprobe.collector.writer import Writer
from cvmprobe.errors import DeniedError, StoreError, UnreachableError
from cvmprobe.model.assignment import LeaseReport
from cvmprobe.model.delivery import Ack, Batch, Bye, Gap, Hello, Loss, Preview, StreamKey, Welcome
from cvmprobe.model.endpoint import Endpoint
from cvmprobe.model.environment import Fact
from cvmprobe.model.window import Instance, SampleBlock
from cvmprobe.store import Store
from cvmprobe.wire.handler import AgentMessage, CollectorMessage
from cvmprobe.wire.identity import Principal

__all__ = ["HEARTBEAT_MS", "Ingest", "Listener", "declare_unfinished", "open_unfinished"]

HEARTBEAT_MS = 2_000
_DECLARED_AT_ONCE = 32

_LOG = logging.getLogger(__name__)

Issue = Callable[[tuple[str, ...]], tuple[bytes, bytes]]
"""Issues a server certificate for names: (certificate PEM, private key PEM)."""


class Listener(Protocol):
    """Who wants to know of agents' comings and goings. Called in the event loop; must not block."""

    def attached(self, attached: Attached) -> None:
        """Take note that an endpoint is there."""

    def detached(self, endpoint: Endpoint) -> None:
        """Take note that it is gone, for whatever reason."""

    def reported(self, endpoint: Endpoint, report: LeaseReport) -> None:
        """Take in a lease report; may be repeated."""

    def stored(self, endpoint: Endpoint, start_id: str, seq: int) -> None:
        """Take note that all batches up to ``seq`` of that start are in the store."""


class Ingest:
    """Implements ``wire.handler.IngestHandler``."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        writer: Writer,
        roster: Roster,
        live: Live,
        issue: Issue,
        listener: Listener,
    ) -> None:
        self._surroundings = surroundings
        self._writer = writer
        self._roster = roster
        self._live = live
        self._issue = issue
        self._listener = listener
        writer.subscribe(self._acknowledge)

    async def attach(
        self,
        hello: Hello,
        principal: Principal,
        send: Callable[[CollectorMessage], None],
        messages: AsyncIterator[AgentMessage],
    ) -> None:
        """Serve one attachment; see ``wire.handler.IngestHandler``."""
        around = self._surroundings
        hello = _joined(hello, around.facts(hello.endpoint.node))
        stream = StreamKey(around.cluster, hello.endpoint, hello.boot_id, hello.start_id)
        stored_seq = await self._resume(stream, hello)
        attached = Attached(stream, hello, lambda: around.peer(hello, principal), send, heard_seq=stored_seq)
        send(self._welcome(hello, stored_seq))
        self._roster.add(attached)
        self._listener.attached(attached)
        self._listener.stored(hello.endpoint, hello.start_id, stored_seq)
        _LOG.info("%s attached as %s, start %s, at %d", hello.endpoint, principal.name, hello.start_id, stored_seq)
        ended_by = "the connection ended without Bye"
        try:
            async for message in messages:
                if isinstance(message, Bye):
                    ended_by = ""
                    await self._bye(attached, message)
                    break
                await self._take(attached, message)
        except DeniedError as error:
            ended_by = str(error)
            raise
        finally:
            self._leave(attached, ended_by)

    async def _resume(self, stream: StreamKey, hello: Hello) -> int:
        """Bring the store up to date with this start, and say how far it is."""
        self._writer.act(lambda store: store.put_node(stream, hello), stream)
        self._writer.act(lambda store: store.close_gap(stream), stream)
        try:
            await self._writer.flush(stream)
            return await self._writer.read(lambda store: store.stored_seq(stream))
        except StoreError as error:
            raise UnreachableError(f"{hello.endpoint} cannot attach now: {error}") from error

    def _welcome(self, hello: Hello, stored_seq: int) -> Welcome:
        if hello.probe_service_port == 0:
            return Welcome(stored_seq, HEARTBEAT_MS)
        certificate_pem, private_key_pem = self._issue((hello.endpoint.server_name,))
        return Welcome(stored_seq, HEARTBEAT_MS, certificate_pem, private_key_pem)

    async def _take(self, attached: Attached, message: AgentMessage) -> None:
        match message:
            case Batch():
                await self._batch(attached, message)
            case Loss():
                await self._loss(attached, message)
            case LeaseReport():
                self._listener.reported(attached.endpoint, message)
            case SampleBlock():
                _check_source(attached, [message.instance])
                self._live.block(message)
                await self._writer.samples(attached.stream, message)
            case Preview():
                _check_source(attached, [window.instance for window in message.windows])
                for window in message.windows:
                    self._live.window(window, preview=True)

    async def _batch(self, attached: Attached, batch: Batch) -> None:
        _check_source(attached, [window.instance for window in batch.windows])
        if batch.seq > attached.heard_seq + 1:
            await self._declare(attached, attached.heard_seq + 1, batch.seq - 1, "skipped by the agent")
        if batch.seq > attached.heard_seq:
            attached.heard_seq = batch.seq
            for window in batch.windows:
                self._live.window(window)
        await self._writer.batch(attached.stream, batch)

    async def _loss(self, attached: Attached, loss: Loss) -> None:
        first_seq = min(loss.first_seq, attached.heard_seq + 1)
        attached.heard_seq = max(attached.heard_seq, loss.last_seq)
        await self._declare(attached, first_seq, loss.last_seq, loss.reason)

    async def _bye(self, attached: Attached, bye: Bye) -> None:
        stream, last_seq = attached.stream, max(bye.last_seq, attached.heard_seq)
        self._writer.act(lambda store: store.end_stream(stream, last_seq), stream)
        with suppress(StoreError):  # the writer tries again; the agent need not wait for that
            await self._writer.flush(stream)

    def _leave(self, attached: Attached, ended_by: str) -> None:
        """Close the books on an attachment. Must not wait: it may be the end of a cancelled call."""
        stream = attached.stream
        if ended_by:
            self._writer.act(lambda store: open_unfinished(store, stream, ended_by), stream)
        if self._roster.remove(attached, may_return=bool(ended_by)):
            self._listener.detached(attached.endpoint)
        _LOG.info("%s left: %s", attached.endpoint, ended_by or "Bye")

    async def _declare(self, attached: Attached, first_seq: int, last_seq: int, reason: str) -> None:
        stream = attached.stream
        gap = Gap(stream, first_seq, last_seq, reason, _now_ms())
        _LOG.warning("%s lost batches %d to %d: %s", stream.endpoint, first_seq, last_seq, reason)
        self._writer.act(lambda store: store.open_gap(gap), stream)
        attached.declared += 1
        if attached.declared % _DECLARED_AT_ONCE == 0:  # each is a write of its own, and the others wait for it
            with suppress(StoreError):
                await self._writer.flush(stream)

    def _acknowledge(self, stream: StreamKey, seq: int) -> None:
        attached = self._roster.of_stream(stream)
        if attached is None:
            return
        attached.send(Ack(seq))
        self._listener.stored(stream.endpoint, stream.start_id, seq)


def open_unfinished(store: Store, stream: StreamKey, reason: str) -> None:
    """Declare that nobody knows what else this start has numbered. Safe to repeat."""
    store.open_gap(Gap(stream, store.stored_seq(stream) + 1, None, reason, _now_ms()))


def declare_unfinished(store: Store) -> None:
    """At the start of a collector: streams that neither ended nor have a gap were cut off by its own end."""
    open_already = {gap.stream for gap in store.gaps() if gap.last_seq is None}
    for stream in store.nodes():
        if stream not in open_already and store.account(stream).numbered is None:
            open_unfinished(store, stream, "the collector ended, and the agent has not come back since")


def _joined(hello: Hello, facts: Sequence[Fact]) -> Hello:
    """Add what others know of the node to what its agent says."""
    environment = replace(hello.environment, facts=(*hello.environment.facts, *facts))
    return replace(hello, environment=environment)


def _check_source(attached: Attached, instances: Iterable[Instance]) -> None:
    """Refuse measurements in the name of another endpoint."""
    for instance in instances:
        if instance.source != attached.endpoint:
            raise DeniedError(f"{attached.endpoint} may not speak for {instance.source}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
