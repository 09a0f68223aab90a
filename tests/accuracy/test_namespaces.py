"""The truths that a test network makes are true themselves: seen by plain sockets, nothing of ours measured."""

import subprocess
import sys

from tests.accuracy.namespaces import dropping, inside, link_down, mtu_of_links, run

DATAGRAMS = 500
SOCKET = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
"""
RECEIVE = """
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE: room for all of them
sock.bind((sys.argv[1], 7777))
print(flush=True)
got = 0
while True:
    data, sender = sock.recvfrom(2000)
    got += len(data) == 100
    if data == b"hello":
        sock.sendto(data, sender)
    elif data == b"end":
        break
print(got, flush=True)
"""
SEND = """
sock.connect((sys.argv[1], 7777))
sock.settimeout(0.2)
while True:  # what is sent before the neighbours know each other may be lost
    try:
        sock.send(b"hello")
        sock.recv(100)
        break
    except OSError:
        continue
for _ in range(int(sys.argv[2])):
    sock.send(bytes(100))
sock.send(b"end")
"""


def received(net, family) -> int:
    host = net.b.host(family)
    command = ["ip", "netns", "exec", net.b.namespace, sys.executable, "-c", SOCKET + RECEIVE, host]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as receiver:
        try:
            receiver.stdout.readline()
            inside(net.a.namespace, sys.executable, "-c", SOCKET + SEND, host, str(DATAGRAMS))
            return int(receiver.stdout.readline())
        finally:
            receiver.kill()


def test_what_is_dropped_is_counted(net):
    for family in (4, 6):
        with dropping(net, net.b, 100, "udp length > 100") as drop:
            got = received(net, family)
            packets, size = drop.counted()
        assert got == DATAGRAMS - packets
        assert 0 < packets < DATAGRAMS
        assert size == packets * (100 + 8 + {4: 20, 6: 40}[family])


def test_everything_can_be_dropped(net):
    with dropping(net, net.b, 1000, "udp length > 100") as drop:
        assert received(net, 4) == 0
        assert drop.counted()[0] == DATAGRAMS


def test_a_link_comes_back(net):
    with link_down(net.b):
        assert "NO-CARRIER" in run("ip", "-n", net.middle, "link", "show", net.b.middle_device)
    for family in (4, 6):
        assert received(net, family) == DATAGRAMS


def test_a_small_mtu_is_behind_the_middle_only(net):
    with mtu_of_links(net, net.b, 1300):
        assert "mtu 1500" in run("ip", "-n", net.a.namespace, "link", "show", net.a.device)
        assert "mtu 1300" in run("ip", "-n", net.middle, "link", "show", net.b.middle_device)
