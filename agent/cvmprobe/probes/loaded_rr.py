"""The loaded_rr probe: how long a round trip takes on an idle path, and beside a stream over the same path."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.session import Session
from cvmprobe.model.window import Direction, Phase, Probe, Window
from cvmprobe.probes.entry import Entry, Metric, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.loaded_engine import LoadedEngine
from cvmprobe.probes.parameters import Placement, RequestBytes, ResponseBytes
from cvmprobe.probes.parts import part_session
from cvmprobe.probes.runner import Runner
from cvmprobe.probes.session import cut, join_bins, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.tcp_stream import TcpStream

__all__ = ["ENTRY", "LoadedRrParameters"]

_BYTES_PER_S = 14_300_000_000  # 100 Gbit/s, and an eighth of all for the round trips
_SETTLE_S = 6  # 2 s for each hello, 2 s for the drain
_DIRECTIONS = (Direction.FORWARD, Direction.REVERSE, Direction.BOTH)
_STREAM_COUNTERS = ("sent_bytes", "reverse_receiver_bytes", "stream_retransmitted_segments")


class LoadedRrParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the loaded_rr probe; the first half of its time is idle, the second loaded."""

    wait: Annotated[
        Literal["block", "epoll", "spin"],
        Meta(description="of the round trips: how an answer is awaited"),
    ] = "block"
    request_bytes: RequestBytes = 1
    response_bytes: ResponseBytes = 1
    placement: Placement = "inherit"
    streams: Annotated[int, Meta(ge=1, le=32, description="connections of the load, each way")] = 1
    message_bytes: Annotated[int, Meta(ge=1, le=1 << 20, description="bytes given to one send call of the load")] = (
        128 * 1024
    )
    omit_ms: Annotated[
        int, Meta(ge=0, description="warm-up of each half, left out of the headline; whole intervals")
    ] = 0


class _LoadedFace:
    """Dials the round trips first and the stream when the load begins; afterwards tells the halves apart."""

    operations: Sequence[str] = ()

    def __init__(self, setup: Setup, duration_ms: int, session: Session, parameters: LoadedRrParameters) -> None:
        self._setup = setup
        self._duration_ms = duration_ms
        self._idle_ms = duration_ms // 2 // setup.interval_ms * setup.interval_ms
        self._session = session
        self._parameters = parameters
        self._engine: LoadedEngine | None = None

    @property
    def omit_ms(self) -> int:
        return self._parameters.omit_ms

    def open(self, stopping: Callable[[], bool]) -> Runner:
        from cvmprobe.native.tcp_rr import TcpRr
        from cvmprobe.native.tcp_stream import TcpStream

        session, asked = self._session, self._parameters

        def load(duration_ms: int) -> "TcpStream":
            return TcpStream(
                part_session(session, Probe.LOADED_RR, Probe.TCP_STREAM),
                duration_ms=duration_ms,
                interval_ms=self._setup.interval_ms,
                direction=self._setup.instance.direction.value,
                streams=asked.streams,
                message_bytes=asked.message_bytes,
                placement=asked.placement,
                giving_up=stopping,
            )

        trips = TcpRr(
            part_session(session, Probe.LOADED_RR, Probe.TCP_RR),
            duration_ms=self._duration_ms,
            request_bytes=asked.request_bytes,
            response_bytes=asked.response_bytes,
            wait=asked.wait,
            placement=asked.placement,
            raw_samples=self._setup.raw_samples,
            giving_up=stopping,
        )
        trips.arm()
        self._engine = LoadedEngine(trips, load, self._idle_ms, self._duration_ms)
        return self._engine

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        engine = self._engine
        idle = tuple(_only(window, "loaded_", *_STREAM_COUNTERS) for window in windows if not _is_loaded(window))
        loaded = tuple(_only(window, "idle_") for window in windows if _is_loaded(window))
        loaded = _warm_up(loaded, self._parameters.omit_ms * 1_000_000)
        if engine is None or engine.stream is None or engine.results is None or engine.stream.results is None:
            return Completed(cut(idle + loaded), totals)
        trips = totals["idle_transactions"] + totals["loaded_transactions"]
        equal = trips == engine.results["operations"]
        told = {"responder_cpu_ns": engine.results["cpu_ns"] + engine.stream.results["cpu_ns"]}
        if self._setup.instance.direction is not Direction.REVERSE:
            bins = engine.stream.bins["bytes"]
            loaded = self._join(loaded, bins, late_ns=sum(window.duration_ns for window in idle))
            told["receiver_bytes"] = sum(bins)
            equal = equal and told["receiver_bytes"] == totals["sent_bytes"]
        if self._setup.instance.direction is not Direction.FORWARD:
            told["reverse_sent_bytes"] = engine.stream.results["sent_bytes"]
            equal = equal and told["reverse_sent_bytes"] == totals["reverse_receiver_bytes"]
        whole = idle + loaded
        return Completed(whole if equal else cut(whole), {**totals, **told})

    def _join(self, loaded: tuple[Window, ...], bins: Sequence[int], *, late_ns: int) -> tuple[Window, ...]:
        """Join the receiver's bytes to windows that end on the grid of the whole, a little later than it began."""
        late_ns -= self._idle_ms * 1_000_000
        stretched = [replace(window, duration_ns=window.duration_ns + late_ns) for window in loaded[:1]]
        joined = join_bins([*stretched, *loaded[1:]], "receiver_bytes", bins, self._setup.interval_ms)
        return tuple(replace(new, duration_ns=old.duration_ns) for new, old in zip(joined, loaded, strict=True))

    def close(self) -> None:
        self._engine = None


def _is_loaded(window: Window) -> bool:
    return "loaded_latency_ns" in window.histograms


def _only(window: Window, *others: str) -> Window:
    """Leave out of a window the counters of the other half."""
    counters = {name: value for name, value in window.counters.items() if not name.startswith(others)}
    return replace(window, counters=counters)


def _warm_up(loaded: tuple[Window, ...], omit_ns: int) -> tuple[Window, ...]:
    """Call the beginning of the second half a warm-up, too: the stream has to find its rate."""
    named, elapsed_ns = [], 0
    for window in loaded:
        named.append(replace(window, phase=Phase.WARMUP) if elapsed_ns < omit_ns else window)
        elapsed_ns += window.duration_ns
    return tuple(named)


def _prepare(setup: Setup) -> Execution:
    parameters = read_parameters(LoadedRrParameters, Probe.LOADED_RR, setup.instance.parameters)
    if setup.duration_ms is None or setup.duration_ms < 2 * (parameters.omit_ms + setup.interval_ms):
        raise UsageError(
            f"loaded_rr: a duration of {setup.duration_ms} ms has no two halves, each with a warm-up of"
            f" {parameters.omit_ms} ms and an interval of {setup.interval_ms} ms: measure for longer"
        )
    session = read_session(setup, _DIRECTIONS)
    return Execution(setup, _LoadedFace(setup, setup.duration_ms, session, parameters))


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    read_parameters(LoadedRrParameters, Probe.LOADED_RR, parameters)
    seconds = duration_ms / 1_000
    return Cost(seconds + _SETTLE_S, int(seconds / 2 * _BYTES_PER_S), 0)


ENTRY = Entry(
    probe=Probe.LOADED_RR,
    title="Round trips over one TCP connection, first alone, then beside a TCP stream",
    metrics=(
        Metric("idle_latency_ns", "ns", "full round trip while nothing else was on the path", headline=True),
        Metric("loaded_latency_ns", "ns", "full round trip beside the stream", headline=True),
        Metric("idle_transactions", "transactions", "requests that were answered in the first half"),
        Metric("loaded_transactions", "transactions", "requests that were answered in the second half"),
        Metric("idle_timeouts", "transactions", "not answered within 1 s; TCP goes on waiting"),
        Metric("loaded_timeouts", "transactions", "not answered within 1 s; TCP goes on waiting"),
        Metric("receiver_bytes", "bytes", "payload of the stream that reached the responder", headline=True),
        Metric("reverse_receiver_bytes", "bytes", "payload of the stream that came back", headline=True),
        Metric("sent_bytes", "bytes", "payload of the stream that the initiator's kernel took"),
        Metric("reverse_sent_bytes", "bytes", "payload that the responder's kernel took (total only)"),
        Metric("stream_retransmitted_segments", "segments", "of the stream, sent again by the initiator's kernel"),
        Metric("responder_cpu_ns", "ns", "CPU time of the responder's threads (total only)"),
        Metric("cpu_ns", "ns", "CPU time of the engines' threads"),
        Metric("run_delay_ns", "ns", "how long the engines' threads were ready and had no CPU"),
    ),
    parameters=LoadedRrParameters,
    prepare=_prepare,
    cost=_cost,
)
