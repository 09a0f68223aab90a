"""Engines of every probe with a peer: made for a ticket, admitted, and run to their end."""

from tests.native.admitting import PLENTY, admit
from tests.native.slow_session import Ticket

from cvmprobe.model.endpoint import PeerAddress
from cvmprobe.model.session import Session
from cvmprobe.native.initiator import Initiator
from cvmprobe.native.tcp_crr import TcpCrr
from cvmprobe.native.tcp_rr import TcpRr
from cvmprobe.native.tcp_stream import TcpStream
from cvmprobe.native.udp_rr import UdpRr
from cvmprobe.native.udp_stream import UdpStream

INTERVAL_MS = 50
STOP_BOUND_S = 5  # the promise is 200 ms; a loaded machine may be late, a stop that does not act is not
ENGINES = {"tcp_rr": TcpRr, "tcp_crr": TcpCrr, "udp_rr": UdpRr, "tcp_stream": TcpStream, "udp_stream": UdpStream}
STREAMS = ("tcp_stream", "udp_stream")


def session_to(port, ticket, *, host="127.0.0.1", dials=0, max_bytes=PLENTY) -> Session:
    return Session(PeerAddress(host, port, dials), ticket.session_id, ticket.key, max_bytes)


def engine_to(port, ticket, *, host="127.0.0.1", dials=0, max_bytes=PLENTY, **parameters) -> Initiator:
    """Make the engine of the ticket's probe, for 200 ms unless told otherwise."""
    session = session_to(port, ticket, host=host, dials=dials, max_bytes=max_bytes)
    given = {"duration_ms": 200} | ({"interval_ms": INTERVAL_MS} if ticket.probe in STREAMS else {})
    return ENGINES[ticket.probe](session, **given | parameters)


def admitted(responder, probe, **parameters) -> Initiator:
    return engine_to(responder.port, admit(responder, Ticket(probe)), **parameters)


def watch(engine, interval_ms=INTERVAL_MS) -> list:
    """Run to the end; return the snapshots of all intervals, then one after stop()."""
    engine.arm()
    engine.start()
    seen = []
    while not seen or not seen[-1].finished:
        seen.append(engine.snapshot(engine.started_ns + (len(seen) + 1) * interval_ms * 1_000_000))
    engine.stop()
    return [*seen, engine.snapshot()]
