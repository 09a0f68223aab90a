"""The tcp_stream probe: how fast bytes get from one endpoint to another, over 1 to 64 connections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.session import Session
from cvmprobe.model.window import Direction, Probe, Window
from cvmprobe.probes.entry import Entry, Metric, Placement, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.session import SILENCE, cut, join_bins, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.engine import Engine
    from cvmprobe.native.tcp_stream import TcpStream

__all__ = ["ENTRY", "TcpStreamParameters"]

_BYTES_PER_S = 12_500_000_000  # 100 Gbit/s
_SETTLE_S = 4  # 2 s for the hello, 2 s for the drain
_MAX_STREAMS_BOTH = 32
_INT = (1 << 31) - 1  # a socket option's largest
_RESPONDER_COUNTS = (
    "sent_bytes",
    "retransmitted_segments",
    "reordering_events",
    "busy_ns",
    "rwnd_limited_ns",
    "sndbuf_limited_ns",
)
_RESPONDER_FACTS = ("rtt_ns", "min_rtt_ns", "path_mtu_bytes", "mss_bytes")


class TcpStreamParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the tcp_stream probe; 0 or nothing leaves an option to the system."""

    streams: Annotated[
        int, Meta(ge=1, le=64, description="connections each way, each with a thread at both ends; 32 at most for both")
    ] = 1
    message_bytes: Annotated[int, Meta(ge=1, le=1 << 20, description="bytes given to one send call")] = 128 * 1024
    placement: Placement = "inherit"
    omit_ms: Annotated[int, Meta(ge=0, description="warm-up, left out of the headline; whole intervals")] = 0
    receive: Annotated[
        Literal["copy", "discard"], Meta(description="copy to the receiver's memory, or let its kernel drop the bytes")
    ] = "copy"
    byte_limit: Annotated[int, Meta(ge=0, le=1 << 60, description="payload bytes each way, then it ends early")] = 0
    sndbuf_bytes: Annotated[int, Meta(ge=0, le=_INT, description="send buffer, at both ends")] = 0
    rcvbuf_bytes: Annotated[int, Meta(ge=0, le=_INT, description="receive buffer, at both ends")] = 0
    congestion: Annotated[str, Meta(max_length=15, description="congestion control, at both ends")] = ""
    rate_bytes_per_s: Annotated[int, Meta(ge=0, le=1 << 60, description="most that one stream is paced to")] = 0
    mss: Annotated[int, Meta(ge=0, le=_INT, description="largest segment payload that is agreed upon, bytes")] = 0
    dscp: Annotated[int, Meta(ge=0, le=63, description="differentiated services code point of the packets")] = 0


class _StreamFace:
    """Dials the session, runs the streams, and joins what the responder counted to their windows."""

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
        from cvmprobe.native.tcp_stream import TcpStream

        asked = msgspec.structs.asdict(self._parameters)
        del asked["omit_ms"]
        engine = self._engine = TcpStream(
            self._session,
            duration_ms=self._duration_ms,
            interval_ms=self._setup.interval_ms,
            direction=self._setup.instance.direction.value,
            discard=asked.pop("receive") == "discard",
            giving_up=stopping,
            **asked,
        )
        engine.arm()
        return engine

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        engine = self._engine
        if engine is None or engine.results is None:
            return Completed(cut(windows), totals)
        totals, direction = {**totals, "receiver_cpu_ns": engine.results["cpu_ns"]}, self._setup.instance.direction
        equal = True
        if direction is not Direction.REVERSE:
            windows, totals = self._join_forward(engine, windows, totals)
            equal = totals["sent_bytes"] == totals["receiver_bytes"]
        if direction is not Direction.FORWARD:
            windows, totals = self._join_reverse(engine, engine.results, windows, totals)
            equal = equal and totals["reverse_sent_bytes"] == totals["reverse_receiver_bytes"]
        name = engine.responder_congestion_control
        windows = _with_facts(windows, {"responder_congestion_control": name} if name else {})
        return Completed(windows if equal else cut(windows), totals)

    def _join_forward(
        self, engine: "TcpStream", windows: tuple[Window, ...], totals: Mapping[str, int]
    ) -> tuple[tuple[Window, ...], Mapping[str, int]]:
        bins = engine.bins["bytes"]
        windows = join_bins(windows, "receiver_bytes", bins, self._setup.interval_ms)
        return windows, {**totals, "receiver_bytes": sum(bins)}

    def _join_reverse(
        self, engine: "TcpStream", results: Mapping[str, int], windows: tuple[Window, ...], totals: Mapping[str, int]
    ) -> tuple[tuple[Window, ...], Mapping[str, int]]:
        """Put what came back into intervals since its first byte; until now they were since our start."""
        windows = join_bins(windows, "reverse_receiver_bytes", engine.reverse_bins, self._setup.interval_ms)
        windows = join_bins(windows, "reverse_sent_bytes", engine.bins["sent_bytes"], self._setup.interval_ms)
        told = {f"reverse_{name}": str(results[name]) for name in _RESPONDER_FACTS if name in results}
        counted = {f"reverse_{name}": results[name] for name in _RESPONDER_COUNTS if name in results}
        return _with_facts(windows, told), {**totals, **counted}

    def close(self) -> None:
        self._engine = None


def _with_facts(windows: tuple[Window, ...], facts: Mapping[str, str]) -> tuple[Window, ...]:
    return tuple(replace(window, facts={**window.facts, **facts}) for window in windows)


def _read_parameters(parameters: Mapping[str, str]) -> TcpStreamParameters:
    return read_parameters(TcpStreamParameters, Probe.TCP_STREAM, parameters)


def _prepare(setup: Setup) -> Execution:
    parameters = _read_parameters(setup.instance.parameters)
    if setup.duration_ms is None:
        raise UsageError("tcp_stream: it saturates the path, so it needs a duration")
    session = read_session(setup, (Direction.FORWARD, Direction.REVERSE, Direction.BOTH))
    if setup.instance.direction is Direction.BOTH and parameters.streams > _MAX_STREAMS_BOTH:
        raise UsageError(
            f"tcp_stream: parameter streams = {parameters.streams}: both directions at once share 64 connections: "
            f"give {_MAX_STREAMS_BOTH} at most"
        )
    return Execution(setup, _StreamFace(setup, setup.duration_ms, session, parameters))


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    """Return what the path can carry at the most, or what the byte limit allows in both directions."""
    limit = 2 * _read_parameters(parameters).byte_limit
    seconds = duration_ms / 1_000
    carried = int(seconds * _BYTES_PER_S)
    return Cost(seconds + _SETTLE_S, min(carried, limit) if limit else carried, 0)


ENTRY = Entry(
    probe=Probe.TCP_STREAM,
    title="Bulk transfer over TCP connections, one thread each, in either direction or both",
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
        *SILENCE,
        Metric("retransmitted_segments", "segments", "sent again by the kernel, over all connections"),
        Metric("reordering_events", "events", "times the kernel saw segments arrive in another order"),
        Metric("busy_ns", "ns", "time with data under way or waiting, added up over the connections"),
        Metric("rwnd_limited_ns", "ns", "of it, waiting for room at the receiver"),
        Metric("sndbuf_limited_ns", "ns", "of it, waiting for room in the send buffer"),
        Metric(
            "reverse_receiver_bytes",
            "bytes",
            "payload that came back to the initiator, by its clock from the first payload byte",
            headline=True,
        ),
        Metric("reverse_receive_calls", "calls", "receive calls that returned payload"),
        Metric("reverse_sent_bytes", "bytes", "payload that the responder's kernel took, by its clock"),
        Metric("reverse_retransmitted_segments", "segments", "sent again by the responder's kernel (total only)"),
        Metric("reverse_reordering_events", "events", "as reordering_events, at the responder (total only)"),
        Metric("reverse_busy_ns", "ns", "as busy_ns, at the responder (total only)"),
        Metric("reverse_rwnd_limited_ns", "ns", "as rwnd_limited_ns, at the responder (total only)"),
        Metric("reverse_sndbuf_limited_ns", "ns", "as sndbuf_limited_ns, at the responder (total only)"),
        Metric("receiver_cpu_ns", "ns", "CPU time of the responder's threads (total only)"),
        Metric("cpu_ns", "ns", "CPU time of the initiator's threads"),
        Metric("run_delay_ns", "ns", "how long the initiator's threads were ready and had no CPU"),
    ),
    parameters=TcpStreamParameters,
    prepare=_prepare,
    cost=_cost,
)
