"""The tcp_crr probe: what a request costs when each has a TCP connection of its own."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.window import Probe
from cvmprobe.probes.entry import Entry, Metric, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.parameters import Arrival, OmitMs, Placement, transaction_options
from cvmprobe.probes.peer_face import Drained, PeerFace, cost_of
from cvmprobe.probes.session import OWN_CPU, cut, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.tcp_crr import TcpCrr

__all__ = ["ENTRY", "TcpCrrParameters"]

_CONNECTIONS_PER_S = 100_000  # more than this is not expected, and not allowed


class TcpCrrParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the tcp_crr probe."""

    request_bytes: Annotated[
        int, Meta(ge=16, le=16384, description="size of a request, the token of the session included")
    ] = 16
    response_bytes: Annotated[int, Meta(ge=1, le=16384, description="size of a response")] = 16
    rate_per_s: Annotated[
        float, Meta(ge=0, le=100_000, description="connections a second; 0: each starts when the last has ended")
    ] = 0.0
    arrival: Arrival = "constant"
    placement: Placement = "inherit"
    omit_ms: OmitMs = 0


def _prepare(setup: Setup) -> Execution:
    asked = read_parameters(TcpCrrParameters, Probe.TCP_CRR, setup.instance.parameters)
    session, options = read_session(setup), transaction_options(setup, asked)
    if session.peer.dials:
        raise UsageError(
            "tcp_crr: behind a Service each connection may reach another endpoint: ask for tcp_rr, or another path"
        )

    def make(giving_up: Callable[[], bool]) -> "TcpCrr":
        from cvmprobe.native.tcp_crr import TcpCrr

        return TcpCrr(session, giving_up=giving_up, **options)

    return Execution(setup, PeerFace(make, _join, omit_ms=asked.omit_ms, paced=asked.rate_per_s > 0))


def _join(end: "Drained[TcpCrr]") -> Completed:
    answered = end.results["operations"]
    equal = end.totals["transactions"] == answered
    return Completed(end.windows if equal else cut(end.windows), {**end.totals, "receiver_transactions": answered})


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    read = read_parameters(TcpCrrParameters, Probe.TCP_CRR, parameters)
    return cost_of(duration_ms, (read.rate_per_s or _CONNECTIONS_PER_S) * (read.request_bytes + read.response_bytes))


ENTRY = Entry(
    probe=Probe.TCP_CRR,
    title="Connect, request, response, close: one TCP connection for each transaction",
    metrics=(
        Metric("latency_ns", "ns", "socket to closed; paced: from the intended start, waiting included", headline=True),
        Metric("transactions", "transactions", "connections whose response and end came", headline=True),
        Metric("connect_ns", "ns", "from the start until the connection stood", headline=True),
        Metric("first_byte_ns", "ns", "from the start until the first byte of the response", headline=True),
        Metric("service_ns", "ns", "socket to closed from the real start (paced only)"),
        Metric("late_operations", "transactions", "started over 1 ms late (paced only)"),
        Metric("timeouts", "transactions", "not over within 1 s"),
        Metric("syn_retransmits", "segments", "SYNs that were sent again"),
        Metric("ports_short", "transactions", "not started since ports ran short; it ended with that"),
        Metric("receiver_transactions", "transactions", "requests that the responder answered (total only)"),
        *OWN_CPU,
    ),
    parameters=TcpCrrParameters,
    prepare=_prepare,
    cost=_cost,
)
