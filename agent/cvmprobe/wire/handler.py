"""What the collector, and an agent for itself, implement behind the two services; in the model's terms only."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol, runtime_checkable

from cvmprobe.model.assignment import Lease, LeaseReport, Plan, Revoke
from cvmprobe.model.delivery import Ack, Batch, Bye, Heartbeat, Hello, Loss, Preview, Welcome
from cvmprobe.model.query import Missed, NodeStatus, ProbeStatus, Selection, SnapshotFormat, Summary, TimeRange
from cvmprobe.model.run import Run
from cvmprobe.model.window import SampleBlock, Window
from cvmprobe.wire.identity import Principal

__all__ = ["AgentMessage", "CollectorMessage", "IngestHandler", "LiveHandler", "ProbeHandler"]

AgentMessage = Batch | Loss | LeaseReport | SampleBlock | Preview | Bye
"""What an agent sends after its Hello."""

CollectorMessage = Welcome | Ack | Plan | Lease | Revoke | Heartbeat
"""What a collector sends; Welcome is the first."""


class IngestHandler(Protocol):
    """The collector's side of an attachment."""

    async def attach(
        self,
        hello: Hello,
        principal: Principal,
        send: Callable[[CollectorMessage], None],
        messages: AsyncIterator[AgentMessage],
    ) -> None:
        """Serve one attachment until ``messages`` ends; returning ends the attachment.

        ``hello.endpoint.node`` has been checked against ``principal``. ``send`` never blocks and does
        nothing once the attachment is over; call it from the event loop, Welcome first. ``messages`` ends
        when the agent is gone for whatever reason; the last message of an orderly end is Bye. When the
        same start attaches anew, this call is cancelled and has ended before the new one begins.
        A batch that could not be read arrives as the Loss of its number. Raise DeniedError to refuse.
        """
        ...


@runtime_checkable
class LiveHandler(Protocol):
    """What an agent serves of itself: what there is, and what happens now."""

    async def list_nodes(self) -> Sequence[NodeStatus]:
        """List all endpoints, in the order of their names."""
        ...

    async def list_probes(self, selection: Selection) -> Sequence[ProbeStatus]:
        """List the selected probe instances that run, or last ran."""
        ...

    def watch_windows(self, selection: Selection) -> AsyncIterator[Window | Missed]:
        """Yield selected windows from now on, as they are cut; never ends by itself. See ``wire.feed.Feed``."""
        ...

    def watch_samples(self, selection: Selection) -> AsyncIterator[SampleBlock | Missed]:
        """Yield raw samples of the selected instances from now on; never ends by itself."""
        ...


@runtime_checkable
class ProbeHandler(LiveHandler, Protocol):
    """What a collector serves besides: the past, and runs. Unknown ids and names raise UsageError."""

    def query_windows(self, selection: Selection, span: TimeRange) -> AsyncIterator[Window]:
        """Yield stored windows that end in ``span``, by time."""
        ...

    async def summarize(self, selection: Selection, span: TimeRange) -> Sequence[Summary]:
        """Make one summary per kind of measurement and metric of the selected stored windows."""
        ...

    async def start_run(self, suite: str, scale: float, repeats: int | None = None) -> Run:
        """Start a run of ``suite``, durations and sizes times ``scale``; returns it with its cost stated.

        ``repeats``: how often all of it is done; None: as often as the suite says.
        """
        ...

    async def get_run(self, run_id: str) -> Run:
        """Give the run as it stands."""
        ...

    def watch_run(self, run_id: str) -> AsyncIterator[Run]:
        """Yield the run as it stands, and again at each change; ends after the state that ended it."""
        ...

    async def cancel_run(self, run_id: str) -> Run:
        """Revoke the run's leases; of one that has ended nothing changes. Returns it as it then stands."""
        ...

    async def list_runs(self) -> Sequence[Run]:
        """List all runs, newest first."""
        ...

    def export_snapshot(
        self, run_id: str | None, span: TimeRange, *, with_samples: bool, snapshot_format: SnapshotFormat
    ) -> AsyncIterator[bytes]:
        """Yield the bytes of a snapshot of one run, or of ``span`` if ``run_id`` is None; chunks of at most 1 MiB."""
        ...
