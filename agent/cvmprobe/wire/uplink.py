"""The agent's attachment to its collector: resumes after any break, and forgets nothing before it is acked."""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Protocol

import grpc

from cvmprobe.errors import ProbeError, UnreachableError, WireError
from cvmprobe.model.assignment import LeaseReport
from cvmprobe.model.delivery import Ack, Batch, Bye, Heartbeat, Hello, Loss, Preview, Welcome
from cvmprobe.model.window import SampleBlock
from cvmprobe.v1 import ingest_pb2 as wire
from cvmprobe.v1.ingest_pb2_grpc import IngestServiceStub
from cvmprobe.wire.channel import MESSAGE_CAP, bearer, in_words, open_channel
from cvmprobe.wire.codec.facts import ROW_BYTES
from cvmprobe.wire.codec.ingest import Receipt, decode_collector_message, encode_agent_message, encode_hello
from cvmprobe.wire.handler import CollectorMessage
from cvmprobe.wire.tls import ClientTls

__all__ = ["Outbox", "Uplink"]

_LOG = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.2
_LAST_DELAY_S = 10.0
_WELCOME_S = 20.0  # how long to wait for the first answer, dialling included
_SILENT_HEARTBEATS = 5  # after that many without a word, the collector counts as gone
_BLOCK_BYTES = 16_384 * ROW_BYTES  # samples of one message
_ASIDES_CAP = 32  # lease reports and sample messages under way; more wait in the outbox

_Call = grpc.aio.StreamStreamCall[wire.AttachRequest, wire.AttachResponse]


class _ReplacedError(Exception):
    """The token we are attached with has been replaced."""


class Outbox(Protocol):
    """What an agent has to send: its spool and its queues in memory. Called in the event loop; must not block."""

    def after(self, seq: int) -> Batch | Loss | None:
        """Give the next numbered thing after ``seq``; None when there is none yet."""
        ...

    def forget(self, seq: int) -> None:
        """All numbered things up to ``seq`` are committed."""
        ...

    def next_unnumbered(self) -> LeaseReport | SampleBlock | Preview | None:
        """Take the next of what goes beside the numbered things; None when there is none.

        The uplink keeps lease reports and samples until the collector has received them, and sends them
        again after a break; a preview is sent once or never.
        """
        ...


class Uplink:
    """Keeps one agent attached to one collector.

    ``collector`` is host:port. ``tls``, ``token`` and ``hello`` are asked at every attempt, so that rotated
    files count at once; a ProbeError or OSError of theirs is trouble like any other. ``token`` is also asked at every
    heartbeat: one that differs is used at once, while the one before is still good. ``receive`` gets every
    message of the collector, in order, except acks, which go to ``spool.forget``; it is called in the event
    loop and must not block. The first message of every attachment is Welcome.
    """

    def __init__(
        self,
        *,
        collector: str,
        tls: Callable[[], ClientTls],
        token: Callable[[], str],
        hello: Callable[[], Hello],
        spool: Outbox,
        receive: Callable[[CollectorMessage], None],
    ) -> None:
        self._collector = collector
        self._tls = tls
        self._token = token
        self._hello = hello
        self._spool = spool
        self._receive = receive
        self._attached = False
        self._trouble: str | None = "not yet attached"
        self._news = asyncio.Event()
        self._acked = 0
        self._aside = 0  # number of the last lease report or sample message
        self._under_way: deque[tuple[int, LeaseReport | SampleBlock]] = deque()  # sent, and no receipt yet
        self._bye: Bye | None = None
        self._bye_sent = False  # in this attachment

    @property
    def attached(self) -> bool:
        """Whether the collector has answered the current attachment with Welcome."""
        return self._attached

    @property
    def trouble(self) -> str | None:
        """Why there is no attachment, in one line; None while there is one."""
        return None if self._attached else self._trouble

    def wake(self) -> None:
        """Say that there is something new in the outbox. From the event loop only."""
        self._news.set()

    def finish(self, bye: Bye) -> None:
        """Let ``run`` end by itself: once all is sent and ``bye.last_seq`` is acked, Bye is the last message."""
        self._bye = bye
        self._news.set()

    async def run(self) -> None:
        """Attach, and re-attach after every loss with a jittered exponential back-off; ends by cancel or ``finish``.

        A refused token is logged and tried again too: it may be replaced.
        """
        delay_s = _FIRST_DELAY_S
        while True:
            began = time.monotonic()
            try:
                await self._attach()
            except _ReplacedError:
                _LOG.info("the token was replaced: attaching anew")
                continue
            except (ProbeError, OSError) as error:
                trouble = str(error)
            else:
                return
            if trouble != self._trouble:
                _LOG.warning("not attached: %s", trouble)
                self._trouble = trouble
            if time.monotonic() - began > delay_s:
                delay_s = _FIRST_DELAY_S
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads agents, hides nothing
            delay_s = min(2 * delay_s, _LAST_DELAY_S)

    async def _attach(self) -> None:
        """Attach once; returns when Bye was the last message, and raises when the stream ends before."""
        channel = open_channel(self._collector, self._tls())
        try:
            token = self._token()
            call: _Call = IngestServiceStub(channel).Attach(metadata=bearer(token))
            welcome = await self._greet(call)
            await _together(
                self._read(call, welcome.heartbeat_ms / 1e3 * _SILENT_HEARTBEATS, token),
                self._write(call, welcome.stored_seq),
            )
        except grpc.aio.AioRpcError as error:
            raise in_words(error, self._collector) from error
        finally:
            self._attached = False
            await channel.close()

    async def _greet(self, call: _Call) -> Welcome:
        with contextlib.suppress(asyncio.InvalidStateError):  # the call is over: reading tells why
            await call.write(encode_hello(self._hello()))
        welcome = await self._next(call, _WELCOME_S)
        if not isinstance(welcome, Welcome):
            raise WireError(f"{self._collector} answered Hello with {type(welcome).__name__}, not Welcome")
        self._attached = True
        self._bye_sent = False
        self._acked = welcome.stored_seq
        self._spool.forget(welcome.stored_seq)
        self._receive(welcome)
        return welcome

    async def _read(self, call: _Call, patience_s: float, token: str) -> None:
        while (message := await self._next(call, patience_s)) is not None:
            match message:
                case Ack():
                    self._acked = max(self._acked, message.seq)
                    self._spool.forget(message.seq)
                    self._news.set()
                case Receipt():
                    while self._under_way and self._under_way[0][0] <= message.aside:
                        self._under_way.popleft()
                    self._news.set()
                case _:
                    self._receive(message)
            if isinstance(message, Heartbeat):
                self._renew(token)
        if not self._bye_sent:
            raise UnreachableError(f"{self._collector} ended the attachment")

    def _renew(self, token: str) -> None:
        """Leave this attachment for a new one if ``token`` was replaced. One that cannot be read now was not."""
        if self._bye_sent:
            return
        with contextlib.suppress(ProbeError, OSError):
            if self._token() != token:
                raise _ReplacedError

    async def _next(self, call: _Call, patience_s: float) -> CollectorMessage | Receipt | None:
        """Give the collector's next message that can be read; None at the end of the stream."""
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    response = await call.read()
            except TimeoutError:
                raise UnreachableError(f"{self._collector} has been silent for {patience_s:g} s") from None
            if not isinstance(response, wire.AttachResponse):
                return None
            try:
                message = decode_collector_message(response)
            except WireError as error:
                if not self._attached:
                    raise
                _LOG.warning("%s sent what cannot be read, and it is passed over: %s", self._collector, error)
                continue
            if message is not None:
                return message

    async def _write(self, call: _Call, stored_seq: int) -> None:
        """Send what there is, and what comes; ends after Bye, or when the call is over (reading tells why)."""
        cursor = stored_seq
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            for aside, message in tuple(self._under_way):
                await call.write(encode_agent_message(message, aside))
            while True:
                self._news.clear()
                numbered = self._spool.after(cursor)
                if numbered is not None:
                    await call.write(_numbered(numbered))
                    cursor = numbered.seq if isinstance(numbered, Batch) else numbered.last_seq
                beside = self._beside()
                for request in beside:
                    await call.write(request)
                if numbered is not None or beside:
                    continue
                if self._bye is not None and self._acked >= self._bye.last_seq and not self._under_way:
                    break
                await self._news.wait()
            await call.write(encode_agent_message(self._bye))
            self._bye_sent = True
            await call.done_writing()

    def _beside(self) -> list[wire.AttachRequest]:
        """Take one unnumbered thing from the outbox: its messages, or none. What cannot be sent is dropped and told."""
        if len(self._under_way) >= _ASIDES_CAP:
            return []
        thing = self._spool.next_unnumbered()
        if thing is None:
            return []
        try:
            if isinstance(thing, Preview):
                return [_fitting(encode_agent_message(thing))]
            return [self._kept(part) for part in (_parts(thing) if isinstance(thing, SampleBlock) else (thing,))]
        except WireError as error:
            _LOG.warning("%s is dropped: %s", type(thing).__name__, error)
            return []

    def _kept(self, message: LeaseReport | SampleBlock) -> wire.AttachRequest:
        """Give a message its number, and keep it until its receipt."""
        request = _fitting(encode_agent_message(message, self._aside + 1))
        self._aside += 1
        self._under_way.append((self._aside, message))
        return request


def _numbered(message: Batch | Loss) -> wire.AttachRequest:
    """Encode a numbered thing; a batch that cannot be sent is declared lost."""
    try:
        return _fitting(encode_agent_message(message))
    except WireError as error:
        if isinstance(message, Loss):
            raise
        _LOG.warning("batch %d is lost: %s", message.seq, error)
        return encode_agent_message(Loss(message.seq, message.seq, f"the agent cannot send it: {error}"))


def _fitting(request: wire.AttachRequest) -> wire.AttachRequest:
    if (size := request.ByteSize()) > MESSAGE_CAP:
        raise WireError(f"{request.WhichOneof('message')}: {size} bytes, a message holds at most {MESSAGE_CAP}")
    return request


def _parts(block: SampleBlock) -> Iterator[SampleBlock]:
    """Cut a block into messages' worth; what was lost before it stands in the first."""
    for start in range(0, max(len(block.rows), 1), _BLOCK_BYTES):
        rows = block.rows[start : start + _BLOCK_BYTES]
        yield replace(block, rows=rows, lost=0 if start else block.lost)


async def _together(*works: Coroutine[None, None, None]) -> None:
    """Do the works side by side until all have ended, or one fails: its error is raised, and the others are cancelled.

    A TaskGroup would drop a cancellation that comes with an error, and the uplink would go on for ever.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
