"""Compare two programs fairly: A/B, B/A, A/B ..., and the median of the pairs' ratios with its 95 % interval.

A load that drifts on the machine hits both sides of a pair alike, so only ratios within a pair are looked at.
The interval is the distribution-free one between two order statistics; fewer than six pairs carry none.
"""

import dataclasses
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["Comparison", "Figure", "compare", "interval_ranks", "print_comparison", "write_json"]

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One number that every run of both sides gives."""

    name: str
    unit: str
    higher_is_better: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs of one measurement: (ours, peer), in ``unit``, as they were taken."""

    name: str
    peer: str  # with its version
    unit: str
    higher_is_better: bool
    settings: Mapping[str, str]
    pairs: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> list[float]:
        """How many times as good as the peer we were in each pair; above 1 is better, whatever the unit."""
        return [ours / peer if self.higher_is_better else peer / ours for ours, peer in self.pairs]

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the median; None where the pairs are too few to have one."""
        ranks = interval_ranks(len(self.pairs))
        ordered = sorted(self.ratios)
        return None if ranks is None else (ordered[ranks[0]], ordered[ranks[1]])


def interval_ranks(count: int) -> tuple[int, int] | None:
    """Ranks (from 0) of the two order statistics that hold the median with at least 95 % probability."""
    tail = (1 - CONFIDENCE) / 2
    below, low = 0.0, -1
    while below + math.comb(count, low + 1) / 2**count <= tail:
        low += 1
        below += math.comb(count, low) / 2**count
    return None if low < 0 else (low, count - 1 - low)


def compare(
    name: str,
    *,
    ours: Callable[[], Mapping[str, float]],
    peer: Callable[[], Mapping[str, float]],
    figures: Sequence[Figure],
    peer_version: str,
    settings: Mapping[str, str],
    count: int = 10,
) -> list[Comparison]:
    """Run ``count`` pairs, each begun by the other side than the pair before; one comparison for each figure.

    A run returns its figures by name.
    """
    pairs = []
    for turn in range(count):
        if turn % 2:
            second = peer()
            pairs.append((ours(), second))
        else:
            first = ours()
            pairs.append((first, peer()))
    return [
        Comparison(
            f"{name} {figure.name}",
            peer_version,
            figure.unit,
            figure.higher_is_better,
            dict(settings),
            tuple((ours_run[figure.name], peer_run[figure.name]) for ours_run, peer_run in pairs),
        )
        for figure in figures
    ]


def print_comparison(comparison: Comparison) -> None:
    """One block for a person: medians of both sides, the ratio and its interval."""
    ours = statistics.median(pair[0] for pair in comparison.pairs)
    peer = statistics.median(pair[1] for pair in comparison.pairs)
    bounds = comparison.interval
    interval = "no interval below 6 pairs" if bounds is None else f"95 % interval {bounds[0]:.3f} .. {bounds[1]:.3f}"
    settings = " ".join(f"{key}={value}" for key, value in comparison.settings.items())
    print(f"{comparison.name} ({settings}) against {comparison.peer}, {len(comparison.pairs)} pairs")
    print(
        f"  cvmprobe {ours:.4g} {comparison.unit}, peer {peer:.4g} {comparison.unit}, "
        f"{comparison.ratio:.3f} times as good, {interval}"
    )


def write_json(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Keep every pair, with the machine and the time they were taken on."""
    rows = [
        {**dataclasses.asdict(comparison), "ratio": comparison.ratio, "interval": comparison.interval}
        for comparison in comparisons
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"kernel": platform.release(), "machine": platform.machine(), "cpus": os.cpu_count()}
    taken = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path.write_text(json.dumps({"taken": taken, "machine": machine, "comparisons": rows}, indent=2) + "\n")
