"""The tcp_stream probe: how fast bytes get from one endpoint to another, over 1 to 64 connections."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.window import Probe, Window
from cvmprobe.probes.entry import Entry, Metric, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.session import Session, cut, join_bins, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.engine import Engine
    from cvmprobe.native.tcp_stream import TcpStream

__all__ = ["ENTRY", "TcpStreamParameters"]

_BYTES_PER_S = 12_500_000_000  # 100 Gbit/s
_SETTLE_S = 4  # 2 s for the hello, 2 s for the drain


class TcpStreamParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the tcp_stream probe."""

    streams: Annotated[int, Meta(ge=1, le=64, description="connections, each with a thread at both ends")] = 1
    message_bytes: Annotated[int, Meta(ge=1, le=1 << 20, description="bytes given to one send call")] = 128 * 1024
    omit_ms: Annotated[int, Meta(ge=0, description="warm-up, left out of the headline; whole intervals")] = 0
    receive: Annotated[
        Literal["copy", "discard"], Meta(description="copy to the receiver's memory, or let its kernel drop the bytes")
    ] = "copy"


class _StreamFace:
    """Dials the session, runs the senders, and joins the receiver's counters to their windows."""

    operations: Sequence[str] = ()

    def __init__(self, setup: Setup, duration_ms: int, session: Session, parameters: TcpStreamParameters) -> None:
        self._setup = setup
        self._duration_ms = duration_ms
        self._session = session
        self._parameters = parameters
        self._engine: TcpStream | None = None

    @property
    def omit_ms(self) -> int:
        return self._parameters.omit_ms

    def open(self, stopping: Callable[[], bool]) -> "Engine":
        from cvmprobe.native.tcp_stream import TcpStream  # noqa: PLC0415 - the catalog is readable without engines

        engine = self._engine = TcpStream(
            host=self._session.host,
            port=self._session.port,
            session_id=self._session.session_id,
            key=self._session.key,
            duration_ms=self._duration_ms,
            interval_ms=self._setup.interval_ms,
            max_bytes=self._setup.max_bytes,
            streams=self._parameters.streams,
            message_bytes=self._parameters.message_bytes,
            discard=self._parameters.receive == "discard",
            dials=self._session.dials,
            giving_up=stopping,
        )
        engine.arm()
        return engine

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        results = None if self._engine is None else self._engine.results
        if self._engine is None or results is None:
            return Completed(cut(windows), totals)
        totals = {**totals, "receiver_bytes": results["bytes"], "receiver_cpu_ns": results["cpu_ns"]}
        windows = join_bins(windows, "receiver_bytes", self._engine.bins["bytes"], self._setup.interval_ms)
        return Completed(windows if totals["sent_bytes"] == totals["receiver_bytes"] else cut(windows), totals)

    def close(self) -> None:
        self._engine = None


def _prepare(setup: Setup) -> Execution:
    parameters = read_parameters(TcpStreamParameters, Probe.TCP_STREAM, setup.instance.parameters)
    if setup.duration_ms is None:
        raise UsageError("tcp_stream: it saturates the path, so it needs a duration")
    session = read_session(setup)
    return Execution(setup, _StreamFace(setup, setup.duration_ms, session, parameters))


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    read_parameters(TcpStreamParameters, Probe.TCP_STREAM, parameters)
    seconds = duration_ms / 1_000
    return Cost(seconds + _SETTLE_S, int(seconds * _BYTES_PER_S), 0)


ENTRY = Entry(
    probe=Probe.TCP_STREAM,
    title="Bulk transfer over TCP connections, one thread each",
    metrics=(
        Metric(
            "receiver_bytes",
            "bytes",
            "payload that reached the receiver, by its own clock from its first payload byte",
            headline=True,
        ),
        Metric("sent_bytes", "bytes", "payload that the sender's kernel took, buffers included"),
        Metric("send_calls", "calls", "send calls that were made"),
        Metric("send_call_ns", "ns", "how long a send call took, waiting for room included"),
        Metric("retransmitted_segments", "segments", "sent again by the kernel, over all connections"),
        Metric("receiver_cpu_ns", "ns", "CPU time of the receiver's threads (total only)"),
        Metric("cpu_ns", "ns", "CPU time of the sender's threads"),
        Metric("run_delay_ns", "ns", "how long the sender's threads were ready and had no CPU"),
    ),
    parameters=TcpStreamParameters,
    prepare=_prepare,
    cost=_cost,
)
