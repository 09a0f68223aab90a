"""The tcp_crr probe: what a request costs when each has a TCP connection of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.session import Session
from cvmprobe.model.window import Probe, Window
from cvmprobe.probes.entry import Entry, Metric, Placement, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.session import cut, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.engine import Engine
    from cvmprobe.native.tcp_crr import TcpCrr

__all__ = ["ENTRY", "TcpCrrParameters"]

_CONNECTIONS_PER_S = 100_000  # more than this is not expected, and not allowed
_SETTLE_S = 4  # 2 s for the hello, 2 s for the drain


class TcpCrrParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the tcp_crr probe."""

    request_bytes: Annotated[
        int, Meta(ge=16, le=16384, description="size of a request, the token of the session included")
    ] = 16
    response_bytes: Annotated[int, Meta(ge=1, le=16384, description="size of a response")] = 16
    rate_per_s: Annotated[
        float, Meta(ge=0, le=100_000, description="connections a second; 0: each starts when the last has ended")
    ] = 0.0
    arrival: Annotated[
        Literal["constant", "poisson"], Meta(description="how the starts are spread where there is a rate")
    ] = "constant"
    placement: Placement = "inherit"
    omit_ms: Annotated[int, Meta(ge=0, description="warm-up, left out of the headline; whole intervals")] = 0


class _CrrFace:
    """Dials the session and opens the connections."""

    def __init__(self, setup: Setup, session: Session, parameters: TcpCrrParameters) -> None:
        self._setup = setup
        self._session = session
        self._parameters = parameters
        self._engine: TcpCrr | None = None

    @property
    def omit_ms(self) -> int:
        return self._parameters.omit_ms

    @property
    def operations(self) -> Sequence[str]:
        return ("transactions",) if self._parameters.rate_per_s else ()

    def open(self, stopping: Callable[[], bool]) -> "Engine":
        from cvmprobe.native.tcp_crr import TcpCrr

        engine = self._engine = TcpCrr(
            self._session,
            duration_ms=self._setup.duration_ms,
            request_bytes=self._parameters.request_bytes,
            response_bytes=self._parameters.response_bytes,
            rate_per_s=self._parameters.rate_per_s,
            poisson=self._parameters.arrival == "poisson",
            raw_samples=self._setup.raw_samples,
            placement=self._parameters.placement,
            giving_up=stopping,
        )
        engine.arm()
        return engine

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        results = None if self._engine is None else self._engine.results
        if results is None:
            return Completed(cut(windows), totals)
        totals = {**totals, "receiver_transactions": results["operations"]}
        equal = totals["transactions"] == totals["receiver_transactions"]
        return Completed(windows if equal else cut(windows), totals)

    def close(self) -> None:
        self._engine = None


def _prepare(setup: Setup) -> Execution:
    parameters = read_parameters(TcpCrrParameters, Probe.TCP_CRR, setup.instance.parameters)
    session = read_session(setup)
    if session.peer.dials:
        raise UsageError(
            "tcp_crr: behind a Service each connection may reach another endpoint: ask for tcp_rr, or another path"
        )
    return Execution(setup, _CrrFace(setup, session, parameters))


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    read = read_parameters(TcpCrrParameters, Probe.TCP_CRR, parameters)
    seconds = duration_ms / 1_000
    transactions = seconds * (read.rate_per_s or _CONNECTIONS_PER_S)
    return Cost(seconds + _SETTLE_S, int(transactions * (read.request_bytes + read.response_bytes)), 0)


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
        Metric("cpu_ns", "ns", "CPU time of the engine's threads"),
        Metric("run_delay_ns", "ns", "how long the engine's threads were ready and had no CPU"),
    ),
    parameters=TcpCrrParameters,
    prepare=_prepare,
    cost=_cost,
)
