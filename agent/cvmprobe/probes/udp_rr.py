"""The udp_rr probe: how long a request takes to a peer and back, the full round trip."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.model.run import Cost
from cvmprobe.model.session import Session
from cvmprobe.model.window import Probe, Window
from cvmprobe.probes.entry import Entry, Metric, Placement, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.little import judge_in_flight
from cvmprobe.probes.session import cut, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.engine import Engine
    from cvmprobe.native.udp_rr import UdpRr

__all__ = ["ENTRY", "UdpRrParameters"]

_TRANSACTIONS_PER_S = 1_000_000  # more than this is not expected, and not allowed
_SETTLE_S = 4  # 2 s for the hello, 2 s for the drain


class UdpRrParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the udp_rr probe."""

    wait: Annotated[
        Literal["block", "epoll", "spin"],
        Meta(
            description="at both ends: sleep in recv of one connection, in epoll_wait of all, or ask without sleeping"
        ),
    ] = "block"
    connections: Annotated[
        int, Meta(ge=1, le=1024, description="connected UDP sockets; more than 1 with epoll or spin")
    ] = 1
    depth: Annotated[int, Meta(ge=1, le=256, description="requests under way on each connection")] = 1
    request_bytes: Annotated[int, Meta(ge=16, le=65507, description="size of a request")] = 16
    response_bytes: Annotated[int, Meta(ge=16, le=65507, description="size of a response")] = 16
    rate_per_s: Annotated[
        float,
        Meta(
            ge=0, le=1_000_000, description="transactions a second over all connections; 0: each starts when one ended"
        ),
    ] = 0.0
    arrival: Annotated[
        Literal["constant", "poisson"], Meta(description="how the starts are spread where there is a rate")
    ] = "constant"
    timeout_ms: Annotated[
        int, Meta(ge=1, le=1_000, description="without a response for so long a request is taken for lost")
    ] = 200
    kernel_stamps: Annotated[
        bool, Meta(description="split the wake-up from the round trip by the kernel's own receive time stamps")
    ] = False
    placement: Placement = "inherit"
    omit_ms: Annotated[int, Meta(ge=0, description="warm-up, left out of the headline; whole intervals")] = 0


class _RrFace:
    """Dials the session and runs the transactions."""

    def __init__(self, setup: Setup, session: Session, parameters: UdpRrParameters) -> None:
        self._setup = setup
        self._session = session
        self._parameters = parameters
        self._engine: UdpRr | None = None

    @property
    def omit_ms(self) -> int:
        return self._parameters.omit_ms

    @property
    def operations(self) -> Sequence[str]:
        return ("transactions",) if self._parameters.rate_per_s else ()

    def open(self, stopping: Callable[[], bool]) -> "Engine":
        from cvmprobe.native.udp_rr import UdpRr

        engine = self._engine = UdpRr(
            self._session,
            duration_ms=self._setup.duration_ms,
            request_bytes=self._parameters.request_bytes,
            response_bytes=self._parameters.response_bytes,
            wait=self._parameters.wait,
            connections=self._parameters.connections,
            depth=self._parameters.depth,
            rate_per_s=self._parameters.rate_per_s,
            poisson=self._parameters.arrival == "poisson",
            timeout_ms=self._parameters.timeout_ms,
            kernel_stamps=self._parameters.kernel_stamps,
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
        totals = {
            **totals,
            "receiver_transactions": results["operations"],
            "receiver_duplicates": results["duplicates"],
            "receiver_cpu_ns": results["cpu_ns"],
        }
        if not self._parameters.rate_per_s and not totals["timeouts"]:
            slots = self._parameters.connections * self._parameters.depth
            windows = judge_in_flight(windows, ("latency_ns",), slots)
        return Completed(windows, totals)

    def close(self) -> None:
        self._engine = None


def _prepare(setup: Setup) -> Execution:
    parameters = read_parameters(UdpRrParameters, Probe.UDP_RR, setup.instance.parameters)
    return Execution(setup, _RrFace(setup, read_session(setup), parameters))


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    read = read_parameters(UdpRrParameters, Probe.UDP_RR, parameters)
    seconds = duration_ms / 1_000
    transactions = seconds * (read.rate_per_s or _TRANSACTIONS_PER_S)
    return Cost(seconds + _SETTLE_S, int(transactions * (read.request_bytes + read.response_bytes)), 0)


ENTRY = Entry(
    probe=Probe.UDP_RR,
    title="Requests and responses over UDP sockets",
    metrics=(
        Metric("latency_ns", "ns", "full round trip; paced: from the intended start, waiting included", headline=True),
        Metric("transactions", "transactions", "requests that were answered", headline=True),
        Metric("service_ns", "ns", "full round trip from the moment the request was sent (paced only)"),
        Metric("late_operations", "transactions", "started over 1 ms late (paced only)"),
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
        Metric("cpu_ns", "ns", "CPU time of the engine's threads"),
        Metric("run_delay_ns", "ns", "how long the engine's threads were ready and had no CPU"),
    ),
    parameters=UdpRrParameters,
    prepare=_prepare,
    cost=_cost,
)
