"""Which batches of a stream are here and which are missing: pure range arithmetic, so that counts are never guessed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from cvmprobe.model.delivery import Gap
from cvmprobe.store import Account

__all__ = ["Ledger", "Range"]

Range = tuple[int, int]  # first and last, both inside


@dataclass(frozen=True, slots=True)
class Ledger:
    """The state of one stream. ``stored`` and ``lost`` are disjoint and in order; everything else is derived."""

    stored: tuple[Range, ...] = ()
    lost: tuple[Gap, ...] = ()  # declared, each with its end
    open_gap: Gap | None = None  # the stream ended without a Bye: whatever follows what is settled is unknown
    last_seq: int | None = None  # from the agent's Bye

    @property
    def stored_seq(self) -> int:
        """Highest seq up to which every batch is stored or declared lost."""
        first, last = next(_joined(chain(self.stored, _ranges(self.lost))), (0, 0))
        return last if first == 1 else 0

    @property
    def account(self) -> Account:
        """Bookkeeping in batches."""
        return Account(
            stored_seq=self.stored_seq,
            numbered=self.last_seq,
            stored=_size(self.stored),
            lost=None if self.open_gap else _size(_ranges(self.lost)),
        )

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """All that is missing; the open gap, if there is one, last."""
        if self.open_gap is None:
            return self.lost
        return (*self.lost, replace(self.open_gap, first_seq=self.stored_seq + 1))

    def holds(self, seq: int) -> bool:
        """Whether the batch of this number is stored."""
        return any(first <= seq <= last for first, last in self.stored)

    def with_stored(self, seqs: Iterable[int]) -> "Ledger":
        """Add batches; where one was declared lost, its gap shrinks."""
        stored = tuple(_joined(chain(self.stored, ((seq, seq) for seq in seqs))))
        lost = tuple(rest for gap in self.lost for rest in _outside(gap, stored))
        return replace(self, stored=stored, lost=lost)

    def with_gap(self, gap: Gap) -> "Ledger":
        """Declare batches missing; what is stored or declared already is left out."""
        if gap.last_seq is None:
            return replace(self, open_gap=gap)
        known = tuple(_joined(chain(self.stored, _ranges(self.lost))))
        lost = (*self.lost, *_outside(replace(gap, first_seq=max(gap.first_seq, 1)), known))
        return replace(self, lost=tuple(sorted(lost, key=lambda one: one.first_seq)))

    def without_open_gap(self) -> "Ledger":
        """Take back the gap without an end."""
        return replace(self, open_gap=None)

    def ended(self, last_seq: int) -> "Ledger":
        """Keep the last number the agent gave out."""
        return replace(self, open_gap=None, last_seq=last_seq)


def _ranges(gaps: Iterable[Gap]) -> tuple[Range, ...]:
    return tuple((gap.first_seq, gap.last_seq) for gap in gaps if gap.last_seq is not None)


def _size(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _joined(ranges: Iterable[Range]) -> Iterator[Range]:
    """Yield the same numbers as the fewest disjoint ranges, in order."""
    ordered = sorted(ranges)
    while ordered:
        first, last = ordered.pop(0)
        while ordered and ordered[0][0] <= last + 1:
            last = max(last, ordered.pop(0)[1])
        yield first, last


def _outside(gap: Gap, present: Iterable[Range]) -> Iterator[Gap]:
    """Yield what is left of a closed gap without the ``present`` numbers, disjoint and in order."""
    (first, end), *_ = _ranges([gap])
    for present_first, present_last in present:
        stop = min(end, present_first - 1)
        if first <= stop:
            yield replace(gap, first_seq=first, last_seq=stop)
        first = max(first, present_last + 1)
    if first <= end:
        yield replace(gap, first_seq=first, last_seq=end)
