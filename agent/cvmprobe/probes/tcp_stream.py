"""The tcp_stream probe: how fast bytes get from one endpoint to another, over 1 to 64 connections."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.model.run import Cost
from cvmprobe.model.window import Direction, Probe, Window
from cvmprobe.probes.entry import Entry, Metric, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.parameters import OmitMs, Placement, stream_options
from cvmprobe.probes.peer_face import LINE_BYTES_PER_S, Drained, PeerFace, cost_of
from cvmprobe.probes.session import OWN_CPU, SILENCE, cut, join_bins, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.tcp_stream import TcpStream

__all__ = ["ENTRY", "TcpStreamParameters"]

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
    omit_ms: OmitMs = 0
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


def _read_parameters(parameters: Mapping[str, str]) -> TcpStreamParameters:
    return read_parameters(TcpStreamParameters, Probe.TCP_STREAM, parameters)


def _prepare(setup: Setup) -> Execution:
    asked = _read_parameters(setup.instance.parameters)
    options = stream_options(setup, asked)
    options["discard"] = options.pop("receive") == "discard"
    session = read_session(setup, (Direction.FORWARD, Direction.REVERSE, Direction.BOTH))

    def make(giving_up: Callable[[], bool]) -> "TcpStream":
        from cvmprobe.native.tcp_stream import TcpStream

        return TcpStream(session, giving_up=giving_up, **options)

    return Execution(setup, PeerFace(make, partial(_join, setup), omit_ms=asked.omit_ms))


def _join(setup: Setup, end: "Drained[TcpStream]") -> Completed:
    windows, totals = end.windows, {**end.totals, "receiver_cpu_ns": end.results["cpu_ns"]}
    equal = True
    if setup.instance.direction is not Direction.REVERSE:
        bins = end.engine.bins["bytes"]
        windows = join_bins(windows, "receiver_bytes", bins, setup.interval_ms)
        totals["receiver_bytes"] = sum(bins)
        equal = totals["sent_bytes"] == totals["receiver_bytes"]
    if setup.instance.direction is not Direction.FORWARD:
        windows = _join_reverse(setup, end, windows)
        totals |= {f"reverse_{name}": end.results[name] for name in _RESPONDER_COUNTS if name in end.results}
        equal = equal and totals["reverse_sent_bytes"] == totals["reverse_receiver_bytes"]
    name = end.engine.responder_congestion_control
    windows = _with_facts(windows, {"responder_congestion_control": name} if name else {})
    return Completed(windows if equal else cut(windows), totals)


def _join_reverse(setup: Setup, end: "Drained[TcpStream]", windows: tuple[Window, ...]) -> tuple[Window, ...]:
    """Put what came back into intervals since its first byte; until now they were since our start."""
    windows = join_bins(windows, "reverse_receiver_bytes", end.engine.reverse_bins, setup.interval_ms)
    windows = join_bins(windows, "reverse_sent_bytes", end.engine.bins["sent_bytes"], setup.interval_ms)
    told = {f"reverse_{name}": str(end.results[name]) for name in _RESPONDER_FACTS if name in end.results}
    return _with_facts(windows, told)


def _with_facts(windows: tuple[Window, ...], facts: Mapping[str, str]) -> tuple[Window, ...]:
    return tuple(replace(window, facts={**window.facts, **facts}) for window in windows)


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    """Return what the path can carry at the most, or what the byte limit allows in both directions."""
    limit = 2 * _read_parameters(parameters).byte_limit
    most = cost_of(duration_ms, LINE_BYTES_PER_S)
    return replace(most, network_bytes=min(most.network_bytes, limit)) if limit else most


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
        *OWN_CPU,
    ),
    parameters=TcpStreamParameters,
    prepare=_prepare,
    cost=_cost,
)
