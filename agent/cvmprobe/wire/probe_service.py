# ruff: noqa: N802 -- methods are named by their rpcs
"""ProbeService: what a person asks, answered by a handler in the model's terms."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from cvmprobe.errors import UsageError, WireError
from cvmprobe.model.query import Missed, Summary
from cvmprobe.model.window import SampleBlock, Window
from cvmprobe.v1 import probe_pb2 as wire
from cvmprobe.v1.probe_pb2_grpc import ProbeServiceServicer
from cvmprobe.wire.calls import NotServedError, answered, streamed
from cvmprobe.wire.codec.checks import finite, name
from cvmprobe.wire.codec.facts import encode_samples, encode_window
from cvmprobe.wire.codec.query import (
    FORMATS,
    decode_selection,
    decode_span,
    encode_missed,
    encode_node,
    encode_probe,
    encode_run,
    encode_summary,
)
from cvmprobe.wire.handler import LiveHandler, ProbeHandler

__all__ = ["ProbeService"]

_LOG = logging.getLogger(__name__)

_PAGE_ENTRIES = 1000
_PAGE_BYTES = 1 << 20
_QUERY_BYTES = 256 << 10

T = TypeVar("T")
M = TypeVar("M")
R = TypeVar("R")


class _Sized(Protocol):
    """The part of a message that a page is measured by."""

    def ByteSize(self) -> int:
        """Give its length on the wire."""
        ...


P = TypeVar("P", bound=_Sized)


class ProbeService(ProbeServiceServicer):
    """Serves a handler. One that is no ProbeHandler serves what is live, and the rest is UNIMPLEMENTED."""

    def __init__(self, handler: LiveHandler) -> None:
        self._live = handler
        self._whole = handler if isinstance(handler, ProbeHandler) else None

    def _collector(self) -> ProbeHandler:
        if self._whole is None:
            raise NotServedError(
                "an agent serves ListNodes, ListProbes, WatchWindows and WatchSamples; ask the collector"
            )
        return self._whole

    @answered
    async def ListNodes(self, request: wire.ListNodesRequest) -> wire.ListNodesResponse:
        """List endpoints, paged."""
        nodes, next_token = _page(await self._live.list_nodes(), encode_node, request.page)
        return wire.ListNodesResponse(nodes=nodes, next_token=next_token)

    @answered
    async def ListProbes(self, request: wire.ListProbesRequest) -> wire.ListProbesResponse:
        """List probe instances, paged."""
        selection = _asked(decode_selection, request.selection)
        probes, next_token = _page(await self._live.list_probes(selection), encode_probe, request.page)
        return wire.ListProbesResponse(probes=probes, next_token=next_token)

    @streamed
    def WatchWindows(self, request: wire.WatchWindowsRequest) -> AsyncGenerator[wire.WatchWindowsResponse, None]:
        """Stream windows as they are cut, from this call on: the caller is let in, and told so, after it."""
        return _encoded(self._live.watch_windows(_asked(decode_selection, request.selection)), _window_or_missed)

    @streamed
    def WatchSamples(self, request: wire.WatchSamplesRequest) -> AsyncGenerator[wire.WatchSamplesResponse, None]:
        """Stream raw samples as they arrive, from this call on."""
        return _encoded(self._live.watch_samples(_asked(decode_selection, request.selection)), _samples_or_missed)

    @streamed
    async def QueryWindows(self, request: wire.QueryWindowsRequest) -> AsyncGenerator[wire.QueryWindowsResponse, None]:
        """Stream stored windows."""
        selection, span = _asked(decode_selection, request.selection), _asked(decode_span, request.span)
        async with _closed(self._collector().query_windows(selection, span)) as windows:
            response, size = wire.QueryWindowsResponse(), 0
            async for window in windows:
                message = encode_window(window)
                response.windows.append(message)
                size += message.ByteSize()
                if size >= _QUERY_BYTES:
                    yield response
                    response, size = wire.QueryWindowsResponse(), 0
            if response.windows:
                yield response

    @answered
    async def Summarize(self, request: wire.SummarizeRequest) -> wire.SummarizeResponse:
        """Summarize stored windows."""
        selection, span = _asked(decode_selection, request.selection), _asked(decode_span, request.span)
        summaries = await self._collector().summarize(selection, span)
        return wire.SummarizeResponse(summaries=_countable(summaries))

    @answered
    async def StartRun(self, request: wire.StartRunRequest) -> wire.StartRunResponse:
        """Start a run."""
        collector = self._collector()
        suite, scale = _asked(_suite, request.suite), _asked(_scale, request.scale)
        repeats = request.repeats if request.HasField("repeats") else None
        return wire.StartRunResponse(run=encode_run(await collector.start_run(suite, scale, repeats)))

    @answered
    async def GetRun(self, request: wire.GetRunRequest) -> wire.GetRunResponse:
        """Give a run."""
        run_id = _asked(_run_id, request.run_id)
        return wire.GetRunResponse(run=encode_run(await self._collector().get_run(run_id)))

    @streamed
    async def WatchRun(self, request: wire.WatchRunRequest) -> AsyncGenerator[wire.WatchRunResponse, None]:
        """Stream a run at each change."""
        async with _closed(self._collector().watch_run(_asked(_run_id, request.run_id))) as runs:
            async for run in runs:
                yield wire.WatchRunResponse(run=encode_run(run))

    @answered
    async def CancelRun(self, request: wire.CancelRunRequest) -> wire.CancelRunResponse:
        """Stop a run."""
        run_id = _asked(_run_id, request.run_id)
        return wire.CancelRunResponse(run=encode_run(await self._collector().cancel_run(run_id)))

    @answered
    async def ListRuns(self, request: wire.ListRunsRequest) -> wire.ListRunsResponse:
        """List runs, paged."""
        runs, next_token = _page(await self._collector().list_runs(), encode_run, request.page)
        return wire.ListRunsResponse(runs=runs, next_token=next_token)

    @streamed
    async def ExportSnapshot(
        self, request: wire.ExportSnapshotRequest
    ) -> AsyncGenerator[wire.ExportSnapshotResponse, None]:
        """Stream the bytes of a snapshot."""
        run_id = _asked(_run_id, request.run_id) if request.HasField("run_id") else None
        chunks = self._collector().export_snapshot(
            run_id,
            _asked(decode_span, request.span),
            with_samples=request.with_samples,
            snapshot_format=_asked(lambda number: FORMATS.decode(number, "format"), request.format),
        )
        async with _closed(chunks):
            async for chunk in chunks:
                yield wire.ExportSnapshotResponse(chunk=chunk)


def _asked(decode: Callable[[M], T], message: M) -> T:
    """Decode a part of a request: what is wrong with it is the caller's to mend."""
    try:
        return decode(message)
    except WireError as error:
        raise UsageError(f"the request is refused: {error}") from error


def _countable(summaries: Iterable[Summary]) -> Iterator[wire.Summary]:
    """Encode summaries. A sum past 64 bits counts nothing that happened; it is left out, for the others' sake."""
    for summary in summaries:
        try:
            yield encode_summary(summary)
        except ValueError:
            _LOG.warning("%s of %s is left out: its sum has over 64 bits", summary.metric, summary.source)


def _suite(suite: str) -> str:
    return name(suite, "suite")


def _run_id(run_id: str) -> str:
    return name(run_id, "run_id")


def _scale(scale: float) -> float:
    if finite(scale, "scale") == 0:
        raise WireError("scale: 0 measures nothing; 1 is the whole suite")
    return scale


def _page(entries: Sequence[T], encode: Callable[[T], P], page: wire.Page) -> tuple[list[P], str]:
    """Encode one page of a list; gives it with the token of the next page.

    A page ends early rather than grow beyond about 1 MiB, but holds one entry at least.
    """
    if page.token and not (page.token.isascii() and page.token.isdigit()):
        raise UsageError(f"page.token {page.token!r} is none of ours; start again without one")
    start = int(page.token[:12] or 0)
    messages: list[P] = []
    size = 0
    for entry in entries[start : start + min(page.size or _PAGE_ENTRIES, _PAGE_ENTRIES)]:
        message = encode(entry)
        size += message.ByteSize()
        if messages and size > _PAGE_BYTES:
            break
        messages.append(message)
    end = start + len(messages)
    return messages, str(end) if messages and end < len(entries) else ""


@asynccontextmanager
async def _closed(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close a handler's generator with the call; a handler may give any other iterator as well."""
    try:
        yield items
    finally:
        if (close := getattr(items, "aclose", None)) is not None:
            await close()


async def _encoded(watched: AsyncIterator[T | Missed], encode: Callable[[T | Missed], R]) -> AsyncGenerator[R, None]:
    """Yield what a watcher is told, until the call ends."""
    async with _closed(watched) as items:
        async for item in items:
            yield encode(item)


def _window_or_missed(item: Window | Missed) -> wire.WatchWindowsResponse:
    if isinstance(item, Missed):
        return wire.WatchWindowsResponse(missed=encode_missed(item))
    return wire.WatchWindowsResponse(window=encode_window(item))


def _samples_or_missed(item: SampleBlock | Missed) -> wire.WatchSamplesResponse:
    if isinstance(item, Missed):
        return wire.WatchSamplesResponse(missed=encode_missed(item))
    return wire.WatchSamplesResponse(samples=encode_samples(item))
