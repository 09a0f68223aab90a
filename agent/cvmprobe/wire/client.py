"""The client of ProbeService: the methods of ProbeHandler, at a collector or an agent."""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from cvmprobe.model.query import Missed, NodeStatus, ProbeStatus, Selection, SnapshotFormat, Summary, TimeRange
from cvmprobe.model.run import Run
from cvmprobe.model.window import SampleBlock, Window
from cvmprobe.wire.tls import ClientTls

__all__ = ["ProbeClient"]


class ProbeClient:
    """``async with ProbeClient("host:port", tls, token) as probes: await probes.list_nodes()``.

    The methods are those of ``wire.handler.ProbeHandler``, which see. Each raises UnreachableError,
    DeniedError, UsageError (the request is wrong, or this server does not serve it) or WireError, with one line
    fit to be shown. A call is not repeated by itself.
    """

    def __init__(self, address: str, tls: ClientTls, token: str) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    async def list_nodes(self) -> Sequence[NodeStatus]:
        """List all endpoints, in the order of their names."""
        raise NotImplementedError

    async def list_probes(self, selection: Selection) -> Sequence[ProbeStatus]:
        """List the selected probe instances that run, or last ran."""
        raise NotImplementedError

    def watch_windows(self, selection: Selection) -> AsyncIterator[Window | Missed]:
        """Yield selected windows from now on, and where some did not reach us."""
        raise NotImplementedError

    def watch_samples(self, selection: Selection) -> AsyncIterator[SampleBlock | Missed]:
        """Yield raw samples of the selected instances from now on."""
        raise NotImplementedError

    def query_windows(self, selection: Selection, span: TimeRange) -> AsyncIterator[Window]:
        """Yield stored windows that end in ``span``, by time."""
        raise NotImplementedError

    async def summarize(self, selection: Selection, span: TimeRange) -> Sequence[Summary]:
        """Summarize the selected stored windows."""
        raise NotImplementedError

    async def start_run(self, suite: str, scale: float) -> Run:
        """Start a run of ``suite``."""
        raise NotImplementedError

    async def get_run(self, run_id: str) -> Run:
        """Give the run as it stands."""
        raise NotImplementedError

    def watch_run(self, run_id: str) -> AsyncIterator[Run]:
        """Yield the run as it stands, and again at each change, until it has ended."""
        raise NotImplementedError

    async def cancel_run(self, run_id: str) -> Run:
        """Revoke the run's leases."""
        raise NotImplementedError

    async def list_runs(self) -> Sequence[Run]:
        """List all runs, newest first."""
        raise NotImplementedError

    def export_snapshot(
        self, run_id: str | None, span: TimeRange, *, with_samples: bool, snapshot_format: SnapshotFormat
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of a snapshot, in chunks."""
        raise NotImplementedError
