"""What every engine with a peer shares: it dials when armed, and takes the responder's results at the end."""

from cvmprobe.native.engine import Engine

class Initiator(Engine):
    """An engine with a session. arm() raises UnreachableError, DeniedError, WireError or EngineError."""

    @property
    def results(self) -> dict[str, int] | None:
        """What the responder counted: bytes, operations, first_ns, last_ns, cpu_ns; None unless the session drained."""

    @property
    def bins(self) -> list[int]:
        """Bytes that reached the responder in each interval, and after the deadline; empty unless it told."""
