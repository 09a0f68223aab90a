"""Answers to people: what there is, what happens, what was measured; runs, and snapshots to take away."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from cvmprobe.analysis.summary import summarize
from cvmprobe.collector.conductor import Conductor
from cvmprobe.collector.live import Live, Wanted
from cvmprobe.collector.roster import Roster
from cvmprobe.collector.surroundings import Surroundings
from cvmprobe.collector.writer import Writer
from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import Hello, StreamKey
from cvmprobe.model.endpoint import Endpoint, EndpointTarget
from cvmprobe.model.query import (
    Attachment,
    Missed,
    NodeStatus,
    ProbeStatus,
    Selection,
    SnapshotFormat,
    Summary,
    TimeRange,
)
from cvmprobe.model.run import Run
from cvmprobe.model.window import Instance, SampleBlock, Window
from cvmprobe.store import Account, Store
from cvmprobe.store.snapshot import write_snapshot

__all__ = ["EXPORTS", "Query"]

EXPORTS = "export-"
"""How the directories begin in which snapshots are made."""

_T = TypeVar("_T")
_CHUNK_WINDOWS = 256
_CHUNK_BYTES = 256 << 10


class Query:
    """Implements ``wire.handler.ProbeHandler``.

    ``scratch`` is where snapshots are made.
    """

    def __init__(
        self,
        *,
        store: Store,
        writer: Writer,
        roster: Roster,
        live: Live,
        conductor: Conductor,
        surroundings: Surroundings,
        scratch: Path,
    ) -> None:
        self._store = store
        self._writer = writer
        self._roster = roster
        self._live = live
        self._conductor = conductor
        self._surroundings = surroundings
        self._scratch = scratch
        self._exporter = ThreadPoolExecutor(1, "export")  # one at a time: other questions need threads and disk, too

    async def list_nodes(self) -> Sequence[NodeStatus]:
        """List the newest start of every endpoint that is not gone, and those that are expected and never came."""
        newest, gone = await asyncio.to_thread(_newest, self._store), self._gone()
        statuses = {endpoint: self._status(*known) for endpoint, known in newest.items() if not gone(endpoint)}
        for endpoint in self._surroundings.expected():
            statuses.setdefault(endpoint, _never_seen(endpoint))
        return [statuses[endpoint] for endpoint in sorted(statuses)]

    async def list_probes(self, selection: Selection) -> Sequence[ProbeStatus]:
        """List the selected probe instances that run, or last ran; none of an endpoint that is gone."""
        statuses, gone = self._live.probes(self._wanted(selection)), self._gone()
        return [status for status in statuses if not any(map(gone, _endpoints(status.instance)))]

    def watch_windows(self, selection: Selection) -> AsyncIterator[Window | Missed]:
        """Yield selected windows from now on: previews of what runs, then the windows themselves."""
        return self._live.watch_windows(self._wanted(selection))

    def watch_samples(self, selection: Selection) -> AsyncIterator[SampleBlock | Missed]:
        """Yield raw operations of the selected instances from now on."""
        return self._live.watch_samples(self._wanted(selection))

    async def query_windows(self, selection: Selection, span: TimeRange) -> AsyncIterator[Window]:
        """Yield stored windows by time, with all that a watcher has seen so far."""
        self._check_run(selection.run_id)
        await self._written()
        async with aclosing(_in_thread(self._store.windows(selection, span), _CHUNK_WINDOWS)) as windows:
            async for window in windows:
                yield window

    async def summarize(self, selection: Selection, span: TimeRange) -> Sequence[Summary]:
        """Summarize the selected stored windows."""
        self._check_run(selection.run_id)
        await self._written()
        return await asyncio.to_thread(lambda: summarize(self._store.windows(selection, span)))

    async def start_run(self, suite: str, scale: float, repeats: int | None = None) -> Run:
        """Start a run."""
        run = self._conductor.start_run(suite, scale, repeats)
        await self._written()  # whoever was told of a run finds it, also after a crash
        return run

    async def get_run(self, run_id: str) -> Run:
        """Give the run as it stands."""
        return self._conductor.get_run(run_id)

    def watch_run(self, run_id: str) -> AsyncIterator[Run]:
        """Yield the run as it stands, and at each change, until it has ended."""
        return self._conductor.watch_run(run_id)

    async def cancel_run(self, run_id: str) -> Run:
        """Revoke the run's leases."""
        return self._conductor.cancel_run(run_id)

    async def list_runs(self) -> Sequence[Run]:
        """List all runs, newest first."""
        return self._conductor.list_runs()

    async def export_snapshot(
        self, run_id: str | None, span: TimeRange, *, with_samples: bool, snapshot_format: SnapshotFormat
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of a snapshot of one run, or of a time range; nothing of it stays here."""
        self._check_run(run_id)
        await self._written()
        directory = _made(self._scratch)
        path = directory / f"snapshot.{snapshot_format}"
        writing = self._exporter.submit(
            write_snapshot,
            self._store,
            path,
            selection=Selection(run_id=run_id),
            time_range=span,
            with_samples=with_samples,
            snapshot_format=snapshot_format,
        )
        try:
            await asyncio.wrap_future(writing)
            with path.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                    yield chunk
        finally:  # a caller that has gone may leave the thread at work, and what it writes goes when it is done
            writing.add_done_callback(lambda _: shutil.rmtree(directory, ignore_errors=True))

    def _check_run(self, run_id: str | None) -> None:
        """Raise UsageError where a run is asked for that there is not: nothing would look like nothing measured."""
        if run_id is not None:
            self._conductor.get_run(run_id)

    async def _written(self) -> None:
        """Wait for what has arrived to be stored; what cannot be stored now is in no answer, and its gaps say so."""
        with suppress(StoreError):
            await self._writer.flush()

    def _wanted(self, selection: Selection) -> Wanted:
        """Windows do not know their run; the run knows its leases."""
        run_id = selection.run_id
        if run_id is None:
            return selection.selects
        self._conductor.get_run(run_id)
        return lambda instance: selection.selects(instance) and self._conductor.granted(run_id, instance.assignment_id)

    def _gone(self) -> Callable[[Endpoint], bool]:
        """Return what tells now whether an endpoint is no more: nobody expects it, and its last stream has ended."""
        if not self._surroundings.all_known:
            return lambda _: False
        expected = frozenset(self._surroundings.expected())
        return lambda endpoint: endpoint not in expected and self._roster.get(endpoint) is None

    def _status(self, stream: StreamKey, hello: Hello, account: Account) -> NodeStatus:
        attached = self._roster.of_stream(stream)
        numbered, pending, lost = account.numbered, account.pending, account.lost
        if attached is not None:
            attachment = Attachment.ATTACHED
            if lost is not None:  # as far as it has spoken
                pending = max(0, attached.heard_seq - account.stored - lost)
                numbered = account.stored + lost + pending
        elif numbered is None:
            attachment, lost = Attachment.LOST, None
        else:
            attachment = Attachment.ENDED
        return NodeStatus(
            endpoint=stream.endpoint,
            attachment=attachment,
            version=hello.version,
            start_id=stream.start_id,
            numbered=numbered,
            stored=account.stored,
            pending=pending,
            lost=lost,
            probe_service_port=hello.probe_service_port if attached else 0,
            environment=hello.environment,
        )


def _endpoints(instance: Instance) -> tuple[Endpoint, ...]:
    target = instance.target
    return (instance.source, target.endpoint) if isinstance(target, EndpointTarget) else (instance.source,)


def _newest(store: Store) -> Mapping[Endpoint, tuple[StreamKey, Hello, Account]]:
    newest = {stream.endpoint: (stream, hello) for stream, hello in store.nodes().items()}
    return {endpoint: (stream, hello, store.account(stream)) for endpoint, (stream, hello) in newest.items()}


def _never_seen(endpoint: Endpoint) -> NodeStatus:
    return NodeStatus(
        endpoint=endpoint,
        attachment=Attachment.PENDING,
        version="",
        start_id="",
        numbered=None,
        stored=0,
        pending=None,
        lost=None,
        probe_service_port=0,
        environment=None,
    )


def _made(scratch: Path) -> Path:
    """Make a directory for one snapshot; StoreError where there is no room for it."""
    try:
        return Path(tempfile.mkdtemp(prefix=EXPORTS, dir=scratch))
    except OSError as error:
        raise StoreError(f"no snapshot can be made in {scratch}: {error.strerror}; make room there") from error


async def _in_thread(items: Iterator[_T], chunk: int) -> AsyncGenerator[_T, None]:
    """Step through a blocking iterator a chunk at a time, off the event loop."""
    while taken := await asyncio.to_thread(lambda: list(islice(items, chunk))):
        for item in taken:
            yield item
