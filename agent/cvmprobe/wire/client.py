"""The client of ProbeService: the methods of ProbeHandler, at a collector or an agent."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Protocol, Self, TypeVar

import grpc

from cvmprobe.errors import WireError
from cvmprobe.model.query import Missed, NodeStatus, ProbeStatus, Selection, SnapshotFormat, Summary, TimeRange
from cvmprobe.model.run import Run
from cvmprobe.model.window import SampleBlock, Window
from cvmprobe.v1 import probe_pb2 as wire
from cvmprobe.v1.probe_pb2_grpc import ProbeServiceStub
from cvmprobe.wire.channel import LET_IN, bearer, in_words, open_channel
from cvmprobe.wire.codec.checks import each, within
from cvmprobe.wire.codec.facts import decode_samples, decode_window
from cvmprobe.wire.codec.query import (
    FORMATS,
    decode_missed,
    decode_node,
    decode_probe,
    decode_run,
    decode_summary,
    encode_selection,
    encode_span,
)
from cvmprobe.wire.tls import ClientTls

__all__ = ["ProbeClient"]

_ANSWER_S = 60.0  # for a call that gives one answer

T = TypeVar("T")
E = TypeVar("E")
Request = TypeVar("Request")
Response = TypeVar("Response")


class _Paged(Protocol):
    """An answer that may go on."""

    @property
    def next_token(self) -> str:
        """Token of the next page; empty: there is none."""
        ...


Page = TypeVar("Page", bound=_Paged)


class ProbeClient:
    """``async with ProbeClient("host:port", tls, token) as probes: await probes.list_nodes()``.

    The methods are those of ``wire.handler.ProbeHandler``, which see. Each raises UnreachableError,
    DeniedError, UsageError (the request is wrong, or this server does not serve it) or WireError, with one line
    fit to be shown, in which the server is called ``name`` (default: its address). A call is not repeated by itself.
    """

    def __init__(self, address: str, tls: ClientTls, token: str, name: str | None = None) -> None:
        self._name = name or address
        self._metadata = bearer(token)
        self._channel = open_channel(address, tls)
        self._stub = ProbeServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def list_nodes(self) -> Sequence[NodeStatus]:
        """List all endpoints, in the order of their names."""

        async def page(token: str) -> wire.ListNodesResponse:
            return await self._ask(self._stub.ListNodes, wire.ListNodesRequest(page=wire.Page(token=token)))

        return await _all(page, lambda response: each("nodes", decode_node, response.nodes))

    async def list_probes(self, selection: Selection) -> Sequence[ProbeStatus]:
        """List the selected probe instances that run, or last ran."""
        selected = encode_selection(selection)

        async def page(token: str) -> wire.ListProbesResponse:
            request = wire.ListProbesRequest(selection=selected, page=wire.Page(token=token))
            return await self._ask(self._stub.ListProbes, request)

        return await _all(page, lambda response: each("probes", decode_probe, response.probes))

    def watch_windows(self, selection: Selection) -> AsyncGenerator[Window | Missed, None]:
        """Yield selected windows from now on, and where some did not reach us."""
        request = wire.WatchWindowsRequest(selection=encode_selection(selection))
        return self._follow(self._stub.WatchWindows, request, _window_or_missed)

    @asynccontextmanager
    async def watching(self, selection: Selection) -> AsyncIterator[AsyncIterator[Window | Missed]]:
        """Watch windows within the block: whatever comes once it is entered is seen, or counted as missed."""
        request = wire.WatchWindowsRequest(selection=encode_selection(selection))
        call = self._stub.WatchWindows(request, metadata=self._metadata)
        try:
            if LET_IN not in tuple(await call.initial_metadata()):
                await call.read()  # the status that says why
            yield (_window_or_missed(response) async for response in call)
        except grpc.aio.AioRpcError as error:
            raise in_words(error, self._name) from error
        finally:
            call.cancel()

    def watch_samples(self, selection: Selection) -> AsyncGenerator[SampleBlock | Missed, None]:
        """Yield raw samples of the selected instances from now on."""
        request = wire.WatchSamplesRequest(selection=encode_selection(selection))
        return self._follow(self._stub.WatchSamples, request, _samples_or_missed)

    async def query_windows(self, selection: Selection, span: TimeRange) -> AsyncGenerator[Window, None]:
        """Yield stored windows that end in ``span``, by time."""
        request = wire.QueryWindowsRequest(selection=encode_selection(selection), span=encode_span(span))
        answers = self._follow(
            self._stub.QueryWindows, request, lambda response: each("windows", decode_window, response.windows)
        )
        async with aclosing(answers):
            async for windows in answers:
                for window in windows:
                    yield window

    async def summarize(self, selection: Selection, span: TimeRange) -> Sequence[Summary]:
        """Summarize the selected stored windows."""
        request = wire.SummarizeRequest(selection=encode_selection(selection), span=encode_span(span))
        response = await self._ask(self._stub.Summarize, request)
        return each("summaries", decode_summary, response.summaries)

    async def start_run(self, suite: str, scale: float, repeats: int | None = None) -> Run:
        """Start a run of ``suite``, ``repeats`` times (None: as it says)."""
        request = wire.StartRunRequest(suite=suite, scale=scale, repeats=repeats)
        response = await self._ask(self._stub.StartRun, request)
        return within("run", decode_run, response.run)

    async def get_run(self, run_id: str) -> Run:
        """Give the run as it stands."""
        response = await self._ask(self._stub.GetRun, wire.GetRunRequest(run_id=run_id))
        return within("run", decode_run, response.run)

    def watch_run(self, run_id: str) -> AsyncGenerator[Run, None]:
        """Yield the run as it stands, and again at each change, until it has ended."""
        return self._follow(
            self._stub.WatchRun,
            wire.WatchRunRequest(run_id=run_id),
            lambda response: within("run", decode_run, response.run),
        )

    async def cancel_run(self, run_id: str) -> Run:
        """Revoke the run's leases."""
        response = await self._ask(self._stub.CancelRun, wire.CancelRunRequest(run_id=run_id))
        return within("run", decode_run, response.run)

    async def list_runs(self) -> Sequence[Run]:
        """List all runs, newest first."""

        async def page(token: str) -> wire.ListRunsResponse:
            return await self._ask(self._stub.ListRuns, wire.ListRunsRequest(page=wire.Page(token=token)))

        return await _all(page, lambda response: each("runs", decode_run, response.runs))

    def export_snapshot(
        self, run_id: str | None, span: TimeRange, *, with_samples: bool, snapshot_format: SnapshotFormat
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a snapshot, in chunks."""
        request = wire.ExportSnapshotRequest(
            run_id=run_id, span=encode_span(span), with_samples=with_samples, format=FORMATS.encode(snapshot_format)
        )
        return self._follow(self._stub.ExportSnapshot, request, lambda response: response.chunk)

    async def _ask(self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        try:
            return await method(request, metadata=self._metadata, timeout=_ANSWER_S)
        except grpc.aio.AioRpcError as error:
            raise in_words(error, self._name) from error

    async def _follow(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        decode: Callable[[Response], T],
    ) -> AsyncGenerator[T, None]:
        call = method(request, metadata=self._metadata)
        try:
            async for response in call:
                yield decode(response)
        except grpc.aio.AioRpcError as error:
            raise in_words(error, self._name) from error
        finally:
            call.cancel()


def _window_or_missed(response: wire.WatchWindowsResponse) -> Window | Missed:
    if response.HasField("missed"):
        return within("missed", decode_missed, response.missed)
    return within("window", decode_window, response.window)


def _samples_or_missed(response: wire.WatchSamplesResponse) -> SampleBlock | Missed:
    if response.HasField("missed"):
        return within("missed", decode_missed, response.missed)
    return within("samples", decode_samples, response.samples)


async def _all(page: Callable[[str], Awaitable[Page]], entries: Callable[[Page], Sequence[E]]) -> Sequence[E]:
    """Gather all pages of a list."""
    gathered: list[E] = []
    token = ""
    while True:
        response = await page(token)
        gathered.extend(entries(response))
        if not response.next_token:
            return tuple(gathered)
        if response.next_token == token:
            raise WireError(f"next_token: the server gives page {token} again and again")
        token = response.next_token
