"""The tcp_rr probe: how long a request takes to a peer and back, the full round trip."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cvmprobe.model.run import Cost
from cvmprobe.model.window import Probe
from cvmprobe.probes.entry import Entry, Metric, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.little import judge_in_flight
from cvmprobe.probes.parameters import (
    Arrival,
    KernelStamps,
    OmitMs,
    Placement,
    RequestBytes,
    ResponseBytes,
    TransactionRate,
    Wait,
    transaction_options,
)
from cvmprobe.probes.peer_face import Drained, PeerFace, cost_of
from cvmprobe.probes.session import OWN_CPU, ROUND_TRIPS, SILENCE, cut, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.tcp_rr import TcpRr

__all__ = ["ENTRY", "TcpRrParameters"]

_TRANSACTIONS_PER_S = 1_000_000  # more than this is not expected, and not allowed


class TcpRrParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the tcp_rr probe."""

    wait: Wait = "block"
    connections: Annotated[int, Meta(ge=1, le=1024, description="TCP connections; more than 1 with epoll or spin")] = 1
    depth: Annotated[
        int, Meta(ge=1, le=256, description="requests under way on each connection, answered in order")
    ] = 1
    request_bytes: RequestBytes = 1
    response_bytes: ResponseBytes = 1
    rate_per_s: TransactionRate = 0.0
    arrival: Arrival = "constant"
    kernel_stamps: KernelStamps = False
    placement: Placement = "inherit"
    omit_ms: OmitMs = 0


def _prepare(setup: Setup) -> Execution:
    asked = read_parameters(TcpRrParameters, Probe.TCP_RR, setup.instance.parameters)
    session, options = read_session(setup), transaction_options(setup, asked)

    def make(giving_up: Callable[[], bool]) -> "TcpRr":
        from cvmprobe.native.tcp_rr import TcpRr

        return TcpRr(session, giving_up=giving_up, **options)

    return Execution(setup, PeerFace(make, partial(_join, asked), omit_ms=asked.omit_ms, paced=asked.rate_per_s > 0))


def _join(asked: TcpRrParameters, end: "Drained[TcpRr]") -> Completed:
    answered = end.results["operations"]
    totals = {**end.totals, "receiver_transactions": answered, "receiver_cpu_ns": end.results["cpu_ns"]}
    windows = end.windows
    if not asked.rate_per_s:
        windows = judge_in_flight(windows, ("latency_ns",), asked.connections * asked.depth)
    return Completed(windows if totals["transactions"] == answered else cut(windows), totals)


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    read = read_parameters(TcpRrParameters, Probe.TCP_RR, parameters)
    return cost_of(duration_ms, (read.rate_per_s or _TRANSACTIONS_PER_S) * (read.request_bytes + read.response_bytes))


ENTRY = Entry(
    probe=Probe.TCP_RR,
    title="Requests and responses over TCP connections",
    metrics=(
        *ROUND_TRIPS,
        Metric("timeouts", "transactions", "not answered within 1 s; TCP goes on waiting"),
        Metric("wakeup_ns", "ns", "from the kernel's receive time stamp to the return of recv (kernel_stamps only)"),
        *SILENCE,
        Metric("retransmitted_segments", "segments", "sent again by the initiator's kernel, over all connections"),
        Metric("receiver_transactions", "transactions", "requests that the responder answered (total only)"),
        Metric("receiver_cpu_ns", "ns", "CPU time of the responder's thread (total only)"),
        *OWN_CPU,
    ),
    parameters=TcpRrParameters,
    prepare=_prepare,
    cost=_cost,
)
