"""How often compare raises a false alarm, and what it finds: seeded synthetic runs with known true differences.

1,000 pairs of runs of five repeats for each difference, as throughput and as latency, with the spread between repeats
of a quiet machine (1 %) and of a shared one (3 %). Ends with 1 when more false alarms than 5 %
(binomial bound) were raised.
"""

import argparse
import json
import math
import random
import sys
from pathlib import Path

from cvmprobe.analysis.bootstrap import contrast

DIFFERENCES = (0.0, 0.02, 0.05, 0.10)
SPREADS = (0.01, 0.03)
MIN_EFFECT = 0.02
REPEATS = 5
LEVEL = 0.05
MISS = 1e-3  # probability that the bound fails a sound method


def most_alarms(trials):
    """Return the count that an alarm probability of 5 % exceeds with probability MISS at the most."""
    total, count = (1 - LEVEL) ** trials, 0
    while total < 1 - MISS:
        count += 1
        total += math.comb(trials, count) * LEVEL**count * (1 - LEVEL) ** (trials - count)
    return count


def campaign(difference, spread, trials, seed):
    chance = random.Random(f"{difference} {spread} {seed}")
    found = {"alarms": 0, "wrong": 0, "same": 0, "undecided": 0, "covered": 0}
    for _ in range(trials):
        truth = (1 + difference) ** chance.choice((-1, 1))
        before = [chance.lognormvariate(0, spread) for _ in range(REPEATS)]
        after = [truth * chance.lognormvariate(0, spread) for _ in range(REPEATS)]
        one = contrast(before, after)
        decided = one.p_beyond(MIN_EFFECT) <= LEVEL
        found["alarms"] += decided
        found["wrong"] += decided and (one.ratio > 1) != (truth > 1)
        found["same"] += not decided and one.within(MIN_EFFECT)
        found["undecided"] += not decided and not one.within(MIN_EFFECT)
        found["covered"] += one.low <= truth <= one.high
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("build/bench/compare_power.json"))
    asked = parser.parse_args()
    bound = most_alarms(asked.trials)
    print(f"{asked.trials} pairs each, {REPEATS} repeats a side, minimum effect {MIN_EFFECT:.0%}")
    print(f"{'difference':>10} {'spread':>7} {'decided':>8} {'same':>7} {'undecided':>10} {'95 % CI holds truth':>20}")
    results, sound = [], True
    for difference in DIFFERENCES:
        for spread in SPREADS:
            found = campaign(difference, spread, asked.trials, asked.seed)
            results.append({"difference": difference, "spread": spread, "trials": asked.trials, **found})
            shares = {name: count / asked.trials for name, count in found.items()}
            print(
                f"{difference:10.0%} {spread:7.0%} {shares['alarms']:8.1%} {shares['same']:7.1%}"
                f" {shares['undecided']:10.1%} {shares['covered']:20.1%}",
                flush=True,
            )
            false = found["alarms"] if difference <= MIN_EFFECT else found["wrong"]
            sound &= false <= bound
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(results, indent=1))
    print(f"false alarms: at most {bound} of {asked.trials} allowed: {'kept' if sound else 'EXCEEDED'}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
