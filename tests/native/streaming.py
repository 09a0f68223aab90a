"""Streams to a responder, run to their end."""

from tests.native.admitting import admit
from tests.native.slow_session import Ticket

from cvmprobe.native.tcp_stream import TcpStream

PLENTY = 1 << 40
INTERVAL_MS = 50


def stream_to(port, ticket, **parameters) -> TcpStream:
    return TcpStream(
        **{
            "host": "127.0.0.1",
            "port": port,
            "session_id": ticket.session_id,
            "key": ticket.key,
            "duration_ms": 200,
            "interval_ms": INTERVAL_MS,
            "max_bytes": PLENTY,
        }
        | parameters
    )


def admitted(responder, **parameters) -> TcpStream:
    return stream_to(responder.port, admit(responder, Ticket()), **parameters)


def watch(engine, interval_ms=INTERVAL_MS) -> list:
    """Run to the end; return the snapshots of all intervals, then one after stop()."""
    engine.arm()
    engine.start()
    seen = []
    while not seen or not seen[-1].finished:
        seen.append(engine.snapshot(engine.started_ns + (len(seen) + 1) * interval_ms * 1_000_000))
    engine.stop()
    return [*seen, engine.snapshot()]
