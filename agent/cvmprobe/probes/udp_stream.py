"""The udp_stream probe: how many datagrams get from one endpoint to another, and where the others are lost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from cvmprobe.model.run import Cost
from cvmprobe.model.window import Direction, Probe, Window
from cvmprobe.probes.entry import Entry, Metric, read_parameters
from cvmprobe.probes.execution import Completed, Execution, Setup
from cvmprobe.probes.parameters import OmitMs, Placement, stream_options
from cvmprobe.probes.peer_face import LINE_BYTES_PER_S, Drained, PeerFace, cost_of
from cvmprobe.probes.session import OWN_CPU, cut, join_bins, read_session

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.udp_stream import UdpStream

__all__ = ["ENTRY", "UdpStreamParameters", "lost_by_window"]

_SMALLEST, _LARGEST = 16, 65_507  # a header alone; as much as IPv4 can carry
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
    omit_ms: OmitMs = 0


def _prepare(setup: Setup) -> Execution:
    asked = read_parameters(UdpStreamParameters, Probe.UDP_STREAM, setup.instance.parameters)
    options = stream_options(setup, asked)
    session = read_session(setup, (Direction.FORWARD, Direction.REVERSE, Direction.BOTH))

    def make(giving_up: Callable[[], bool]) -> "UdpStream":
        from cvmprobe.native.udp_stream import UdpStream

        return UdpStream(session, giving_up=giving_up, **options)

    return Execution(setup, PeerFace(make, partial(_join, setup.interval_ms), omit_ms=asked.omit_ms))


def _join(interval_ms: int, end: "Drained[UdpStream]") -> Completed:
    facts, results = end.engine.facts, end.results
    windows = tuple(replace(window, facts={**facts, **window.facts}) for window in end.windows)
    counts = {**end.totals, "responder_cpu_ns": results["cpu_ns"]}
    there, here = end.engine.bins, end.engine.received_bins
    if "sent_datagrams" in counts:
        windows = _join_bins(windows, "receiver", there["bytes"], there["operations"], interval_ms)
        counts |= _account(counts["sent_datagrams"], results)
    if end.engine.received is not None:
        windows = _join_bins(windows, "reverse_receiver", here["bytes"], here["operations"], interval_ms)
        windows = _join_bins(windows, "reverse_sent", there["sent_bytes"], there["sent_operations"], interval_ms)
        sent = {"sent_bytes": results["sent_bytes"], "sent_datagrams": results["sent_operations"]}
        account = sent | {"send_errors": results["send_errors"]} | _account(sent["sent_datagrams"], end.engine.received)
        counts |= {f"reverse_{name}": count for name, count in account.items()}
    lost = [counts.get(f"{way}lost_datagrams") for way in _WAYS]
    for way, count in zip(_WAYS, lost, strict=True):
        windows = windows if count is None else _place_losses(windows, way, count)
    whole = all(count is None or count >= 0 for count in lost)
    return Completed(windows if whole else cut(windows), counts)


def _join_bins(
    windows: tuple[Window, ...], end: str, sizes: Sequence[int], datagrams: Sequence[int], interval_ms: int
) -> tuple[Window, ...]:
    windows = join_bins(windows, f"{end}_bytes", sizes, interval_ms)
    return join_bins(windows, f"{end}_datagrams", datagrams, interval_ms)


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


def _cost(parameters: Mapping[str, str], duration_ms: int) -> Cost:
    asked = read_parameters(UdpStreamParameters, Probe.UDP_STREAM, parameters)
    rate = 2 * asked.streams * asked.rate_bytes_per_s  # it may be asked both ways
    return cost_of(duration_ms, min(rate, LINE_BYTES_PER_S) or LINE_BYTES_PER_S)


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
        *OWN_CPU,
    ),
    parameters=UdpStreamParameters,
    prepare=_prepare,
    cost=_cost,
)
