"""Two runs of the same thing, held against each other: better, worse, same, undecided, or not to be compared.

better, worse    the ratio is beyond the minimum effect, at 5 % over all metrics together (Holm)
same             its whole 95 % interval is within the minimum effect, of what arrived a twentieth of it
not comparable   measured by other means (engine, kernel, size, parameters), or missing on a side
undecided        anything else, and always below MIN_REPEATS repeats a side; says how many repeats would tell
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import geometric_mean

from cvmprobe.analysis.bootstrap import LEVEL, MOST, Contrast, contrast, holm
from cvmprobe.analysis.repeats import Kind, Quantity, Series

__all__ = ["KEPT_WEIGHT", "MIN_REPEATS", "UNSOUND_SHARE", "Comparison", "Side", "Verdict", "compare"]

MIN_REPEATS = 5
KEPT_WEIGHT = 20  # one datagram lost in a thousand weighs as much as a rate that is 2 % lower
UNSOUND_SHARE = 0.10  # of the steady windows: with more of them spoiled a figure is flagged


class Verdict(StrEnum):
    """What a comparison came to, seen from A: B is ..."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    UNDECIDED = "undecided"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, slots=True)
class Side:
    """One run: its series, and the conditions that are common to all of them, such as the kernel of its nodes."""

    series: Mapping[Kind, Series]
    conditions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one kind. ``before``, ``after``: geometric means over the repeats of A and of B."""

    kind: Kind
    quantity: Quantity | None  # None: the kind has no value on a side
    verdict: Verdict
    reason: str = ""
    before: float | None = None
    after: float | None = None
    repeats: tuple[int, int] = (0, 0)
    contrast: Contrast | None = None
    p: float | None = None  # of an effect beyond the minimum, after Holm
    unsound: bool = False  # too many windows of a side were spoiled
    incomplete: bool = False  # a repeat failed or came to 0, and so is in no mean

    @property
    def partial(self) -> bool:
        """Whether the data were not what a verdict needs."""
        return self.unsound or self.incomplete or self.contrast is None

    def effect(self, share: float) -> float:
        """Return what matters of this metric where ``share`` matters of a rate: less of what arrived."""
        return share / KEPT_WEIGHT if self.quantity is not None and self.quantity.kept else share

    @property
    def loss(self) -> float:
        """Share by which B is worse than A; below 0 where it is better, 0 where that is not known."""
        if self.contrast is None or self.quantity is None:
            return 0.0
        return 1 - self.contrast.ratio if self.quantity.up else self.contrast.ratio - 1


def compare(a: Side, b: Side, *, min_effect: float, force: bool = False) -> tuple[Comparison, ...]:
    """Compare every metric that either side has. ``force``: also what was measured by other means, and say so."""
    unlike = _unlike(a.conditions, b.conditions)
    rows = [
        row
        for kind in sorted({*a.series, *b.series})
        for row in _of_kind(kind, a.series.get(kind), b.series.get(kind), unlike, force=force)
    ]
    tested = {place: row.contrast for place, row in enumerate(rows) if row.contrast is not None}
    effects = [rows[place].effect(min_effect) for place in tested]
    adjusted = holm([found.p_beyond(effect) for found, effect in zip(tested.values(), effects, strict=True)])
    for (place, found), effect, p in zip(tested.items(), effects, adjusted, strict=True):
        rows[place] = _judged(rows[place], found, p, effect, len(tested))
    return tuple(rows)


def _of_kind(
    kind: Kind, a: Series | None, b: Series | None, unlike: Sequence[str], *, force: bool
) -> Sequence[Comparison]:
    if a is None or b is None:
        side = "B" if a is None else "A"
        return [Comparison(kind, None, Verdict.NOT_COMPARABLE, f"only {side} has it")]
    reasons = [*unlike, *_unlike(a.conditions, b.conditions)]
    unsound = max(a.left_out_share, b.left_out_share) > UNSOUND_SHARE
    quantities = sorted({*a.values, *b.values})
    if not quantities:
        return [Comparison(kind, None, Verdict.NOT_COMPARABLE, "neither side has a figure", unsound=unsound)]
    return [
        replace(_of_quantity(kind, quantity, a, b, reasons, force=force), unsound=unsound) for quantity in quantities
    ]


def _of_quantity(
    kind: Kind, quantity: Quantity, a: Series, b: Series, reasons: Sequence[str], *, force: bool
) -> Comparison:
    before, after = a.values.get(quantity, []), b.values.get(quantity, [])
    lacking = [*_lacking("A", a.repeats, len(before)), *_lacking("B", b.repeats, len(after))]
    row = Comparison(
        kind,
        quantity,
        Verdict.NOT_COMPARABLE,
        "; ".join([*reasons, *lacking]),
        before=geometric_mean(before) if before else None,
        after=geometric_mean(after) if after else None,
        repeats=(len(before), len(after)),
        incomplete=bool(lacking) and not quantity.quantile,
    )
    if not before or not after:
        return replace(row, reason=f"only {'A' if before else 'B'} has a figure above 0")
    if reasons and not force:
        return row
    fewest = min(len(before), len(after))
    if fewest < MIN_REPEATS:
        few = f"{fewest} repeat{'s' if fewest > 1 else ''} a side, of at least {MIN_REPEATS}"
        return replace(row, verdict=Verdict.UNDECIDED, reason="; ".join([few, *reasons, *lacking]))
    return replace(row, contrast=contrast(before, after))


def _judged(row: Comparison, found: Contrast, p: float, min_effect: float, questions: int) -> Comparison:
    if p <= 1 - LEVEL:
        return replace(row, verdict=Verdict.WORSE if row.loss > 0 else Verdict.BETTER, p=p)
    if found.within(min_effect):
        return replace(row, verdict=Verdict.SAME, p=p)
    needed = max(found.repeats_to_tell(min_effect, questions), min(row.repeats) + 1)
    told = f"{f'about {needed}' if needed <= MOST else f'over {MOST}'} repeats a side would tell"
    return replace(row, verdict=Verdict.UNDECIDED, p=p, reason="; ".join(filter(None, [told, row.reason])))


def _lacking(side: str, begun: int, found: int) -> list[str]:
    """Say how many repeats of a side are in no mean: without them it looks better than it was."""
    return [f"{begun - found} of {begun} repeats of {side} lack it"] if begun > found else []


def _unlike(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """Name what differs between the conditions of two sides."""
    return [
        f"{name} {a.get(name, 'unknown')} against {b.get(name, 'unknown')}"
        for name in sorted({*a, *b})
        if a.get(name) != b.get(name)
    ]
