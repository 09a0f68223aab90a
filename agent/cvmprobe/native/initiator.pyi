"""What every engine with a peer shares: it dials when armed, and takes the responder's results at the end."""

from cvmprobe.native.engine import Engine

RESULTS: dict[str, int]
SERIES: dict[str, int]

class Results(dict[str, int]):
    """What a responder counted, by name. To need what it did not tell is an error of the session: WireError."""

class Initiator(Engine):
    """An engine whose first argument is its session; what it sends is bound by the session's bytes.

    ``giving_up`` is asked every 50 ms while arm() dials. That raises UnreachableError, DeniedError, WireError,
    EngineError or RefusedError.
    """

    @property
    def results(self) -> Results | None:
        """What the responder counted, by name (session.h); what it does not know is absent. None unless drained."""

    @property
    def responder_congestion_control(self) -> str | None:
        """Name of the congestion control that the responder read back; None where it told none."""

    @property
    def bins(self) -> dict[str, list[int]]:
        """What the responder counted in each interval and after the deadline, by series; empty unless it told."""
