"""The udp_stream probe: how many datagrams get from one endpoint to another, and where the others are lost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.errors import UsageError
from cvmprobe.model.run import Cost
from cvmprobe.model.session import Session
from cvmprobe.model.window import Direction, Probe, Window
from cvmprobe.probes.entry import Entry, Metric, Placement, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.session import cut, join_bins, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.engine import Engine
    from cvmprobe.native.udp_stream import UdpStream

__all__ = ["ENTRY", "UdpStreamParameters", "lost_by_window"]

_BYTES_PER_S = 12_500_000_000  # 100 Gbit/s
_SETTLE_S = 4  # 2 s for the hello, 2 s for the drain
_SMALLEST, _LARGEST = 16, 65_507  # a header alone; as much as IPv4 can carry
_MAX_STREAMS_BOTH = 32
_WAYS = ("", "reverse_")  # to the responder, back to the initiator


class UdpStreamParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What can be asked of the udp_stream probe."""

    streams: Annotated[int, Meta(ge=1, le=64, description="sockets each way, each with a thread at both ends")] = 1
    datagram_bytes: Annotated[
        int,
        Meta(ge=_SMALLEST, le=_LARGEST, description="payload of one; 1372 fits through WireGuard, over IPv6 as well"),
    ] = 1372
    rate_bytes_per_s: Annotated[int, Meta(ge=0, description="payload of each stream; 0: as fast as it goes")] = 0
    offload: Annotated[
        Literal["best", "gso", "mmsg", "none"],
        Meta(
            description="many datagrams to a packet (GSO, GRO), to a call (sendmmsg, recvmmsg), none; best: by trying"
        ),
    ] = "best"
    sndbuf_bytes: Annotated[int, Meta(ge=0, le=1 << 30, description="send buffer; 0: as the system has it")] = 0
    rcvbuf_bytes: Annotated[int, Meta(ge=0, le=1 << 30, description="receive buffer; 0: as the system has it")] = 0
    dscp: Annotated[int, Meta(ge=0, le=63, description="differentiated services code point")] = 0
    placement: Placement = "inherit"
    omit_ms: Annotated[int, Meta(ge=0, description="warm-up, left out of the headline; whole intervals")] = 0


class _DatagramFace:
    """Dials the session, runs one end of each flow, and joins what the other end counted to the windows."""

    operations: Sequence[str] = ()

    def __init__(self, setup: Setup, duration_ms: int, session: Session, parameters: UdpStreamParameters) -> None:
        self._setup = setup
        self._duration_ms = duration_ms
        self._session = session
        self._parameters = parameters
        self._engine: UdpStream | None = None

    @property
    def omit_ms(self) -> int:
        return self._parameters.omit_ms

    def open(self, stopping: Callable[[], bool]) -> "Engine":
        from cvmprobe.native.udp_stream import UdpStream

        asked = msgspec.structs.asdict(self._parameters)
        del asked["omit_ms"]
        engine = self._engine = UdpStream(
            self._session,
            duration_ms=self._duration_ms,
            interval_ms=self._setup.interval_ms,
            direction=self._setup.instance.direction.value,
            giving_up=stopping,
            **asked,
        )
        engine.arm()
        return engine

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        engine = self._engine
        if engine is None or engine.results is None:
            return Completed(cut(windows), totals)
        facts, results = engine.facts, engine.results
        windows = tuple(replace(window, facts={**facts, **window.facts}) for window in windows)
        counts = {**totals, "responder_cpu_ns": results["cpu_ns"]}
        if "sent_datagrams" in counts:
            windows = self._join(windows, "receiver", engine.bins["bytes"], engine.bins["operations"])
            counts |= _account(counts["sent_datagrams"], results)
        if engine.received is not None:
            here, there = engine.received_bins, engine.bins
            windows = self._join(windows, "reverse_receiver", here["bytes"], here["operations"])
            windows = self._join(windows, "reverse_sent", there["sent_bytes"], there["sent_operations"])
            sent = {"sent_bytes": results["sent_bytes"], "sent_datagrams": results["sent_operations"]}
            account = sent | {"send_errors": results["send_errors"]} | _account(sent["sent_datagrams"], engine.received)
            counts |= {f"reverse_{name}": count for name, count in account.items()}
        lost = [counts.get(f"{way}lost_datagrams") for way in _WAYS]
        for way, count in zip(_WAYS, lost, strict=True):
            windows = windows if count is None else _place_losses(windows, way, count)
        whole = all(count is None or count >= 0 for count in lost)
        return Completed(windows if whole else cut(windows), counts)

    def _join(
        self, windows: tuple[Window, ...], end: str, sizes: Sequence[int], datagrams: Sequence[int]
    ) -> tuple[Window, ...]:
        windows = join_bins(windows, f"{end}_bytes", sizes, self._setup.interval_ms)
        return join_bins(windows, f"{end}_datagrams", datagrams, self._setup.interval_ms)

    def close(self) -> None:
        self._engine = None


def _account(sent: int, received: Mapping[str, int]) -> dict[str, int]:
    """Say of every datagram that was sent where it is: sent = received + lost in the network + lost at the socket."""
    lost = sent - received["operations"]
    found = {"receiver_bytes": received["bytes"], "receiver_datagrams": received["operations"], "lost_datagrams": lost}
    if "socket_drops" in received:
        found["socket_lost_datagrams"] = min(lost, received["socket_drops"])  # a dropped duplicate is no loss
        found["network_lost_datagrams"] = lost - found["socket_lost_datagrams"]
    names = ("duplicates", "reordered", "reorder_extent", "jitter_ns")
    return found | {name: received[name] for name in names if name in received}


def _place_losses(windows: tuple[Window, ...], way: str, lost: int) -> tuple[Window, ...]:
    sent = [window.counters[f"{way}sent_datagrams"] for window in windows]
    received = [window.counters[f"{way}receiver_datagrams"] for window in windows]
    shares = lost_by_window(sent, received, lost)
    return tuple(
        replace(window, counters={**window.counters, f"{way}lost_datagrams": share})
        for window, share in zip(windows, shares, strict=True)
    )


def lost_by_window(sent: Sequence[int], received: Sequence[int], lost: int) -> list[int]:
    """Return how many datagrams each window lost; the sum is ``lost``.

    What was sent in a window and not received in the same is lost, or under way and counted one window too early;
    never is more lost than in the end.
    """
    missing = [out - arrived for out, arrived in zip(accumulate(sent), accumulate(received), strict=True)]
    so_far = [max(0, min(lost, most)) for most in accumulate(missing, max)]
    so_far[-1:] = [lost] * bool(so_far)
    return [after - before for before, after in zip([0, *so_far], so_far, strict=False)]


def _prepare(setup: Setup) -> Execution:
    parameters = read_parameters(UdpStreamParameters, Probe.UDP_STREAM, setup.instance.parameters)
    if setup.duration_ms is None:
        raise UsageError("udp_stream: it fills the path, so it needs a duration")
    session = read_session(setup, (Direction.FORWARD, Direction.REVERSE, Direction.BOTH))
    if setup.instance.direction is Direction.BOTH and parameters.streams > _MAX_STREAMS_BOTH:
        raise UsageError(
            f"udp_stream: parameter streams = {parameters.streams}: both directions at once share 64 sockets: "
            f"give {_MAX_STREAMS_BOTH} at most"
        )
    return Execution(setup, _DatagramFace(setup, setup.duration_ms, session, parameters))


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    asked = read_parameters(UdpStreamParameters, Probe.UDP_STREAM, parameters)
    seconds = duration_ms / 1_000
    rate = 2 * asked.streams * asked.rate_bytes_per_s  # it may be asked both ways
    return Cost(seconds + _SETTLE_S, int(seconds * (min(rate, _BYTES_PER_S) or _BYTES_PER_S)), 0)


def _flow(way: str) -> tuple[Metric, ...]:
    """Return the metrics of the datagrams that go to the responder, or of those that come back from it."""
    there = "came back to the initiator" if way else "reached the responder"
    return (
        Metric(
            f"{way}receiver_bytes",
            "bytes",
            f"payload that {there}, each datagram once, by the receiver's clock from the first payload byte",
            headline=True,
        ),
        Metric(
            f"{way}lost_datagrams",
            "datagrams",
            "sent and never received; one under way at the end of a window may be counted there already",
            headline=True,
        ),
        Metric(f"{way}receiver_datagrams", "datagrams", "received, each once"),
        Metric(f"{way}sent_bytes", "bytes", "payload that the sender's kernel took"),
        Metric(f"{way}sent_datagrams", "datagrams", "taken by the sender's kernel: those received and those lost"),
        Metric(f"{way}send_errors", "datagrams", "refused by the sender's kernel (a full queue, a filter): never sent"),
        Metric(f"{way}network_lost_datagrams", "datagrams", "lost between sender and receiver (total only)"),
        Metric(f"{way}socket_lost_datagrams", "datagrams", "found no room in the receiver's socket (total only)"),
        Metric(f"{way}duplicates", "datagrams", "received once more"),
        Metric(f"{way}reordered", "datagrams", "received after one that was sent later"),
        Metric(f"{way}reorder_extent", "datagrams", "the farthest that one was behind the foremost (total only)"),
        Metric(f"{way}jitter_ns", "ns", "interarrival jitter by RFC 3550, once for each receive call (total only)"),
    )


ENTRY = Entry(
    probe=Probe.UDP_STREAM,
    title="Datagrams as fast as they go or at a rate, each one accounted for",
    metrics=(
        *_flow(""),
        *_flow("reverse_"),
        Metric("send_calls", "calls", "send calls that were made here"),
        Metric("reverse_receive_calls", "calls", "receive calls that were made here"),
        Metric("icmp_errors", "errors", "ICMP errors that came back to a sender here"),
        Metric("responder_cpu_ns", "ns", "CPU time of the responder's threads (total only)"),
        Metric("cpu_ns", "ns", "CPU time of the threads here"),
        Metric("run_delay_ns", "ns", "how long the threads here were ready and had no CPU"),
    ),
    parameters=UdpStreamParameters,
    prepare=_prepare,
    cost=_cost,
)
