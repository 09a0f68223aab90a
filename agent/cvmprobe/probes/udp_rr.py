"""The udp_rr probe: how long a request takes to a peer and back, the full round trip."""

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
    TransactionRate,
    Wait,
    transaction_options,
)
from cvmprobe.probes.peer_face import Drained, PeerFace, cost_of
from cvmprobe.probes.session import OWN_CPU, ROUND_TRIPS, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.udp_rr import UdpRr

__all__ = ["ENTRY", "UdpRrParameters"]

_TRANSACTIONS_PER_S = 1_000_000  # more than this is not expected, and not allowed


class UdpRrParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the udp_rr probe."""

    wait: Wait = "block"
    connections: Annotated[
        int, Meta(ge=1, le=1024, description="connected UDP sockets; more than 1 with epoll or spin")
    ] = 1
    depth: Annotated[int, Meta(ge=1, le=256, description="requests under way on each connection")] = 1
    request_bytes: Annotated[int, Meta(ge=16, le=65507, description="size of a request")] = 16
    response_bytes: Annotated[int, Meta(ge=16, le=65507, description="size of a response")] = 16
    rate_per_s: TransactionRate = 0.0
    arrival: Arrival = "constant"
    timeout_ms: Annotated[
        int, Meta(ge=1, le=1_000, description="without a response for so long a request is taken for lost")
    ] = 200
    kernel_stamps: KernelStamps = False
    placement: Placement = "inherit"
    omit_ms: OmitMs = 0


def _prepare(setup: Setup) -> Execution:
    asked = read_parameters(UdpRrParameters, Probe.UDP_RR, setup.instance.parameters)
    session, options = read_session(setup), transaction_options(setup, asked)

    def make(giving_up: Callable[[], bool]) -> "UdpRr":
        from cvmprobe.native.udp_rr import UdpRr

        return UdpRr(session, giving_up=giving_up, **options)

    return Execution(setup, PeerFace(make, partial(_join, asked), omit_ms=asked.omit_ms, paced=asked.rate_per_s > 0))


def _join(asked: UdpRrParameters, end: "Drained[UdpRr]") -> Completed:
    told = {"transactions": "operations", "duplicates": "duplicates", "cpu_ns": "cpu_ns"}
    totals = {**end.totals, **{f"receiver_{ours}": end.results[name] for ours, name in told.items()}}
    windows = end.windows
    if not asked.rate_per_s and not totals["timeouts"]:
        windows = judge_in_flight(windows, ("latency_ns",), asked.connections * asked.depth)
    return Completed(windows, totals)


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    read = read_parameters(UdpRrParameters, Probe.UDP_RR, parameters)
    return cost_of(duration_ms, (read.rate_per_s or _TRANSACTIONS_PER_S) * (read.request_bytes + read.response_bytes))


ENTRY = Entry(
    probe=Probe.UDP_RR,
    title="Requests and responses over UDP sockets",
    metrics=(
        *ROUND_TRIPS,
        Metric("requests", "transactions", "requests sent"),
        Metric("timeouts", "transactions", "requests without a response in time: lost, or late", headline=True),
        Metric(
            "late_responses", "transactions", "responses that came after their timeout; the other timeouts are lost"
        ),
        Metric("duplicates", "transactions", "responses that came more than once"),
        Metric("send_errors", "calls", "requests that the kernel did not take"),
        Metric("refused", "calls", "times the peer's host said that its port is closed"),
        Metric("unreachable", "calls", "times the network said that host or net are unreachable"),
        Metric("wakeup_ns", "ns", "from the kernel's receive time stamp to the return of recv (kernel_stamps only)"),
        Metric("receiver_transactions", "transactions", "requests that reached the responder (total only)"),
        Metric("receiver_duplicates", "transactions", "of these, those that came more than once (total only)"),
        Metric("receiver_cpu_ns", "ns", "CPU time of the responder's thread (total only)"),
        *OWN_CPU,
    ),
    parameters=UdpRrParameters,
    prepare=_prepare,
    cost=_cost,
)
