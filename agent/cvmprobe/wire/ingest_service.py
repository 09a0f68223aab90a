# ruff: noqa: N802 -- methods are named by their rpcs
"""IngestService: one call per attached agent, handed to a handler in the model's terms."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator

from cvmprobe.errors import DeniedError, RefusedError, UsageError, WireError
from cvmprobe.model.delivery import Bye, Hello
from cvmprobe.v1 import ingest_pb2 as wire
from cvmprobe.v1.ingest_pb2_grpc import IngestServiceServicer
from cvmprobe.wire.calls import caller, streamed
from cvmprobe.wire.codec.ingest import Receipt, decode_agent_message, decode_hello, encode_collector_message
from cvmprobe.wire.handler import AgentMessage, CollectorMessage, IngestHandler
from cvmprobe.wire.identity import Principal

__all__ = ["IngestService"]

_LOG = logging.getLogger(__name__)

_HELLO_S = 10.0  # how long a caller may keep silent before it says who it is
_OUTBOUND_CAP = 1024  # messages an agent may leave unread before it counts as gone
_AT_ONCE = 4  # starts of one endpoint: the living, and some that the network still holds
_STARTS_CAP = 10_000  # starts of which the last aside is remembered
_DISPENSABLE = frozenset({"samples", "lease_report", "preview"})  # unreadable, these cost themselves alone

_Start = tuple[str, str, str]  # endpoint, boot id, start id


class IngestService(IngestServiceServicer):
    """Serves agents' attachments; one per start of an agent, the newest, and a few per endpoint."""

    def __init__(self, handler: IngestHandler) -> None:
        self._handler = handler
        self._attached: dict[_Start, asyncio.Task[None]] = {}
        self._asides: dict[_Start, int] = {}

    @streamed
    async def Attach(self, requests: AsyncIterator[wire.AttachRequest]) -> AsyncGenerator[wire.AttachResponse, None]:
        """Serve one attachment from Hello to its end."""
        requests = aiter(requests)
        hello = await _hello(requests)
        principal = _admitted(hello)
        start = (str(hello.endpoint), hello.boot_id, hello.start_id)
        while (older := self._in_the_way(start)) is not None:
            _LOG.info("%s attached anew; its older attachment ends", hello.endpoint)
            older.cancel()
            await asyncio.wait({older})
        attachment = _Attachment(hello, requests, self._asides.get(start, 0))
        task = asyncio.get_running_loop().create_task(attachment.run(self._handler, principal))
        self._attached[start] = task
        task.add_done_callback(lambda _: self._ended(start, attachment))
        try:
            async for response in attachment.responses():
                yield response
            await asyncio.wait({task})
            attachment.conclude(task)
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _in_the_way(self, start: _Start) -> asyncio.Task[None] | None:
        """Return the attachment that must end before ``start`` attaches; None where there is none."""
        if start in self._attached:
            return self._attached[start]
        of_endpoint = [task for other, task in self._attached.items() if other[0] == start[0]]
        return of_endpoint[0] if len(of_endpoint) >= _AT_ONCE else None

    def _ended(self, start: _Start, attachment: "_Attachment") -> None:
        del self._attached[start]
        self._asides.pop(start, None)  # the newest stands last
        self._asides[start] = attachment.aside
        if len(self._asides) > _STARTS_CAP:
            del self._asides[next(iter(self._asides))]


async def _hello(requests: AsyncIterator[wire.AttachRequest]) -> Hello:
    try:
        async with asyncio.timeout(_HELLO_S):
            return decode_hello(await anext(requests))
    except TimeoutError:
        raise UsageError(f"no Hello came within {_HELLO_S:g} s") from None
    except StopAsyncIteration:
        raise UsageError("the stream ended before a Hello came") from None
    except WireError as error:
        raise UsageError(f"the Hello is refused: {error}") from error


def _admitted(hello: Hello) -> Principal:
    """Give the caller, if it may speak for the endpoint it claims to be."""
    principal = caller()
    if principal.node is None or principal.node != hello.endpoint.node:
        own = "no node" if principal.node is None else f"node {principal.node}"
        raise DeniedError(f"{principal.name} may speak for {own}, not for {hello.endpoint}")
    if principal.role not in (None, hello.endpoint.role):
        raise DeniedError(f"{principal.name} may be {principal.role} on {principal.node}, not {hello.endpoint.role}")
    return principal


class _Attachment:
    """The two directions of one attachment: what the handler sends, and what the agent sent, decoded."""

    def __init__(self, hello: Hello, requests: AsyncIterator[wire.AttachRequest], aside: int) -> None:
        self.aside = aside  # the last lease report or sample block of this start that the handler has taken
        self._hello = hello
        self._requests = requests
        self._outbound: asyncio.Queue[CollectorMessage | Receipt | None] = asyncio.Queue()
        self._over = False
        self._refusal: str | None = None
        self._unreadable = 0
        self._task: asyncio.Task[None] | None = None

    async def run(self, handler: IngestHandler, principal: Principal) -> None:
        """Let the handler serve; then end ``responses``."""
        self._task = asyncio.current_task()
        try:
            await handler.attach(self._hello, principal, self._send, self._messages())
        finally:
            self._over = True
            self._outbound.put_nowait(None)

    async def responses(self) -> AsyncIterator[wire.AttachResponse]:
        """Yield what the handler sends, until it is done."""
        while (message := await self._outbound.get()) is not None:
            yield encode_collector_message(message)
            if self._refusal is not None:
                return

    def conclude(self, task: asyncio.Task[None]) -> None:
        """Raise why the attachment did not end in order, if so."""
        if self._refusal is not None:
            raise UsageError(self._refusal)
        if task.cancelled():
            raise RefusedError("a newer attachment took the place of this one")
        task.result()

    def _send(self, message: CollectorMessage | Receipt) -> None:
        if self._over:
            return
        if self._outbound.qsize() >= _OUTBOUND_CAP:
            self._refuse(f"{_OUTBOUND_CAP} messages to {self._hello.endpoint} wait unread")
            if self._task is not None:
                self._task.cancel()
            return
        self._outbound.put_nowait(message)

    def _refuse(self, reason: str) -> None:
        """End the attachment: for the handler it looks as if the agent had gone."""
        self._over = True
        self._refusal = reason
        self._outbound.put_nowait(None)
        _LOG.warning("attachment of %s ends: %s", self._hello.endpoint, reason)

    async def _messages(self) -> AsyncIterator[AgentMessage]:
        async for request in self._requests:
            try:
                message = self._decode(request)
            except WireError as error:
                self._refuse(str(error))
                return
            if message is not None and (request.aside == 0 or request.aside > self.aside):
                yield message
            if request.aside:
                self.aside = max(self.aside, request.aside)
                self._send(Receipt(self.aside))
            if self._over or isinstance(message, Bye):
                return

    def _decode(self, request: wire.AttachRequest) -> AgentMessage | None:
        kind = request.WhichOneof("message")
        try:
            message = decode_agent_message(request)
            reason = "its kind is unknown here"
        except WireError as error:
            if kind not in _DISPENSABLE:
                raise
            message, reason = None, str(error)
        if message is None:
            self._unreadable += 1
            if self._unreadable == 1:
                _LOG.warning("%s sent what cannot be read, and it is dropped: %s", self._hello.endpoint, reason)
        return message
