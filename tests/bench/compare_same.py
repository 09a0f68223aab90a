"""Pairs of real runs of the same thing on this machine: how often compare says that they differ.

Each run is a few seconds of compute kernels and of round trips and a stream over loopback; the second of a pair comes
after the first, as a person does it. The machine should do nothing else: what a neighbour does to one run of a pair
only is a difference, and no false alarm. A pair counts as a false alarm where any of its metrics is better or worse.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from short_run import COMPUTE, NETWORK, sides

from cvmprobe.analysis import Verdict, compare

MIN_EFFECT = 0.02


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--interleaved", action="store_true", help="a repeat of each run in turn")
    parser.add_argument("--output", type=Path, default=Path("build/bench/compare_same.json"))
    asked = parser.parse_args()
    alarmed, verdicts, results = 0, Counter(), []
    for pair in range(1, asked.pairs + 1):
        rows = compare(*sides(asked.repeats, COMPUTE | NETWORK, interleaved=asked.interleaved), min_effect=MIN_EFFECT)
        alarms = [row for row in rows if row.verdict in (Verdict.BETTER, Verdict.WORSE)]
        alarmed += bool(alarms)
        verdicts.update(row.verdict.value for row in rows)
        results += [
            {
                "pair": pair,
                "metric": f"{row.kind} {row.quantity}",
                "verdict": row.verdict.value,
                "ratio": row.contrast.ratio if row.contrast else None,
                "p": row.p,
            }
            for row in rows
        ]
        told = ", ".join(f"{row.kind} {row.quantity} x {row.contrast.ratio:.3f}" for row in alarms)
        print(f"pair {pair:2d}: {len(rows)} metrics, {len(alarms)} false alarms {told}", flush=True)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(results, indent=1))
    print(f"{alarmed} of {asked.pairs} pairs raised a false alarm; verdicts of all metrics: {dict(verdicts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
