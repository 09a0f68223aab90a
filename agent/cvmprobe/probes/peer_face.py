"""The face of a probe with a peer: it dials, and hands over to be joined what both ends have counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from cvmprobe.model.run import Cost
from cvmprobe.model.window import Window
from cvmprobe.probes.execution import Completed
from cvmprobe.probes.session import cut

if TYPE_CHECKING:  # the catalog is readable where no engine is built
    from cvmprobe.native.initiator import Initiator

__all__ = ["LINE_BYTES_PER_S", "Drained", "PeerFace", "cost_of"]

E = TypeVar("E", bound="Initiator")
LINE_BYTES_PER_S = 12_500_000_000  # 100 Gbit/s: more is not expected, and not allowed
_SETTLE_S = 4  # 2 s for the hello, 2 s for the drain


@dataclass(frozen=True, slots=True)
class Drained(Generic[E]):
    """The end of a session that drained: the stopped engine, what the responder counted, what was counted here."""

    engine: E
    results: Mapping[str, int]
    windows: tuple[Window, ...]
    totals: Mapping[str, int]


class PeerFace(Generic[E]):
    """Dials what ``make`` returned for a ``giving_up``, and lets ``join`` complete what it measured.

    The windows of a session that did not drain are flagged ``cut``. Paced: what is counted are transactions.
    """

    def __init__(
        self,
        make: Callable[[Callable[[], bool]], E],
        join: Callable[[Drained[E]], Completed],
        *,
        omit_ms: int,
        paced: bool = False,
    ) -> None:
        self.omit_ms = omit_ms
        self.operations: Sequence[str] = ("transactions",) if paced else ()
        self._make = make
        self._join = join
        self._engine: E | None = None

    def open(self, stopping: Callable[[], bool]) -> E:
        """Dial the session."""
        engine = self._engine = self._make(stopping)
        engine.arm()
        return engine

    def complete(self, windows: tuple[Window, ...], totals: Mapping[str, int]) -> Completed:
        """Join what the responder counted, if it told."""
        engine = self._engine
        if engine is None or engine.results is None:
            return Completed(cut(windows), totals)
        return self._join(Drained(engine, engine.results, windows, totals))

    def close(self) -> None:
        """Forget the engine, which its execution has closed."""
        self._engine = None


def cost_of(duration_ms: int, bytes_per_s: float) -> Cost:
    """Return what a session costs that carries so much at the most."""
    seconds = duration_ms / 1_000
    return Cost(seconds + _SETTLE_S, int(seconds * bytes_per_s), 0)
