"""udp_stream where the truth is known: what the middle, the queues and the sockets dropped, and the path's MTU."""

import json

import pytest
from tests.accuracy.ends import begin, measure, serving
from tests.accuracy.namespaces import bucket, dropping, inside, link_down, mtu_of_links, run

from cvmprobe.model.window import Direction, Flag, Probe

UDP = Probe.UDP_STREAM
DATA = "udp length > 300"  # hellos and their answers are shorter
SIZE = 1372
HEADERS = {4: 28, 6: 48}
MODEST = {"rate_bytes_per_s": 8_000_000, "duration_ms": 1_500, "rcvbuf_bytes": 200_000}
TOWARDS = {Direction.FORWARD: ("b", ""), Direction.REVERSE: ("a", "reverse_")}
OTHERS = 8  # packets of the control connection and of neighbour discovery that a queue may drop, too


def account(told, way="") -> tuple[int, int, int]:
    """Return what was sent, and lost in the network and at the socket; all of it must add up."""
    totals = told.totals
    sent, received = totals[f"{way}sent_datagrams"], totals[f"{way}receiver_datagrams"]
    network, at_socket = totals[f"{way}network_lost_datagrams"], totals[f"{way}socket_lost_datagrams"]
    assert sent == received + network + at_socket
    assert sum(window.counters[f"{way}lost_datagrams"] for window in told.windows) == network + at_socket
    return sent, network, at_socket


def kernel_counts(side) -> dict[str, int]:
    """What the kernel of a side counts: of IPv4 by protocol and name, of IPv6 by its own names."""
    rows = [line.split() for line in inside(side.namespace, "cat", "/proc/net/snmp").splitlines()]
    found = {
        names[0] + name: int(value)
        for names, values in zip(rows[::2], rows[1::2], strict=True)
        for name, value in zip(names[1:], values[1:], strict=True)
    }
    rows = [line.split() for line in inside(side.namespace, "cat", "/proc/net/snmp6").splitlines()]
    return found | {name: int(value) for name, value in rows}


def rcvbuf_errors(side) -> int:
    """Packets that found no room in a UDP socket of this side."""
    counts = kernel_counts(side)
    return counts["Udp:RcvbufErrors"] + counts["Udp6RcvbufErrors"]


@pytest.mark.parametrize("direction", TOWARDS, ids=["forward", "reverse"])
@pytest.mark.parametrize(("offload", "family"), [("none", 4), ("mmsg", 4), ("gso", 4), ("best", 6)])
def test_loss_is_what_the_middle_dropped(net, direction, offload, family):
    receiver, way = TOWARDS[direction]
    side = getattr(net, receiver)
    with dropping(net, side, 50, DATA) as drop:
        told = measure(net, UDP, family=family, direction=direction, offload=offload, **MODEST)
        packets, dropped_bytes = drop.counted()
    sent, lost, at_socket = account(told, way)
    truth = (dropped_bytes - HEADERS[family] * packets) / SIZE
    print(f"{sent} sent, {lost} lost in the network, {at_socket} at the socket; the middle dropped {truth:g}")
    assert truth > 0
    overflowed = rcvbuf_errors(side)  # packets; none, unless this machine left the receiver without a CPU for long
    if offload in ("none", "mmsg") or not overflowed:
        assert (lost, at_socket) == (truth, overflowed)
    else:  # a packet of many datagrams is told from others around it
        assert lost + at_socket >= truth
        assert at_socket <= 64 * overflowed
    if offload != "best":
        assert told.windows[-1].facts["receive_offload" if way else "send_offload"] == offload
    if offload in ("none", "mmsg"):
        assert lost == packets


def test_a_loss_one_way_shows_that_way_only(net):
    with dropping(net, net.b, 100, DATA) as drop:
        told = measure(net, UDP, direction=Direction.BOTH, offload="none", **MODEST)
        packets, _ = drop.counted()
    assert account(told)[1] == packets > 0
    assert account(told, "reverse_")[1] == 0


def test_loss_is_what_the_bucket_dropped(net):
    rate_bit = 50_000_000
    with bucket(net, net.b, rate_bit) as dropped_packets:
        told = measure(net, UDP, offload="none", **{**MODEST, "duration_ms": 3_000}, omit_ms=1_000)
        dropped = dropped_packets()
    _, lost, at_socket = account(told)
    goodput = told.per_second("receiver_bytes") * 8
    expected = rate_bit * SIZE / (SIZE + HEADERS[4] + 14)
    print(f"{lost} lost, the bucket dropped {dropped}; {goodput / 1e6:.3f} Mbit/s of {expected / 1e6:.3f}")
    assert at_socket == rcvbuf_errors(net.b)
    assert 0 <= dropped - lost <= OTHERS
    assert goodput < expected * 1.01
    if not at_socket:  # else the receiver had no CPU for a while, and what it missed is not in its goodput
        assert goodput > expected * 0.99


def test_a_full_queue_of_the_sender_is_no_loss_of_the_network(net):
    device = ("dev", net.a.device, "root")
    shape = ("tbf", "rate", "20mbit", "burst", "20kb", "limit", "30kb")
    run("tc", "-n", net.a.namespace, "qdisc", "replace", *device, *shape)
    told = measure(net, UDP, offload="none", rate_bytes_per_s=5_000_000, duration_ms=1_500)
    listed = json.loads(run("tc", "-n", net.a.namespace, "-s", "-j", "qdisc", "show", *device))
    _, lost, _ = account(told)
    refused = told.totals["send_errors"]
    print(f"{refused} refused by the sender's kernel, whose queue dropped {listed[0]['drops']}")
    assert lost == 0
    assert refused > 0
    assert 0 <= listed[0]["drops"] - refused <= OTHERS


@pytest.mark.parametrize("direction", TOWARDS, ids=["forward", "reverse"])
def test_loss_at_the_socket_is_what_its_kernel_counted(net, direction):
    receiver, way = TOWARDS[direction]
    side = getattr(net, receiver)
    told = measure(net, UDP, direction=direction, offload="none", rcvbuf_bytes=2304, duration_ms=1_000)
    _, lost, at_socket = account(told, way)
    counted = rcvbuf_errors(side)
    print(f"{at_socket} lost at the socket, {counted} counted by the kernel, {lost} in the network")
    assert at_socket == counted > 0


def test_a_smaller_path_mtu_is_seen(net):
    with serving(net.b) as peer, begin(net, net.a, peer, UDP, rate_bytes_per_s=1_000_000) as running:
        windows = running.windows()
        assert next(windows).facts["path_mtu_bytes"] == "1500"
        with mtu_of_links(net, net.b, 1300):
            told = running.told()
    assert "datagrams of 1372 bytes over a path of 1300 bytes" in told.error
    assert told.windows[-1].facts["path_mtu_bytes"] == "1300"
    assert told.totals["icmp_errors"] > 0


@pytest.mark.parametrize(("family", "fragments"), [(4, "6"), (6, "7")], ids=["ipv4", "ipv6"])
def test_a_datagram_longer_than_the_path_goes_in_fragments(net, family, fragments):
    told = measure(net, UDP, family=family, datagram_bytes=8800, duration_ms=500, rate_bytes_per_s=1_000_000)
    assert account(told)[1] == 0
    assert told.windows[0].facts["fragments"] == fragments
    made = kernel_counts(net.a)["Ip:FragCreates" if family == 4 else "Ip6FragCreates"]
    assert made == int(fragments) * told.totals["sent_datagrams"]


def with_link_down(net, side):
    """Stream from a to b, and take a side's link down after the first window."""
    with serving(net.b) as peer, begin(net, net.a, peer, UDP, rate_bytes_per_s=1_000_000, duration_ms=8_000) as running:
        next(running.windows())
        with link_down(side):
            return running.told()


def test_a_link_down_here_ends_the_stream_by_its_name(net):
    assert "Network is unreachable" in with_link_down(net, net.a).error


def test_a_link_down_there_is_told_by_what_comes_back(net):
    told = with_link_down(net, net.b)
    assert told.totals["icmp_errors"] > 0
    assert told.windows[-1].facts["icmp_error"] == "No route to host"
    assert all(Flag.CUT in window.flags for window in told.windows)
