"""Print what recording one operation costs: ns, all parts together and each alone. Goal: <= 50 ns all in.

    python tests/bench/record_cost.py

Each figure is the loop in C with and without the part, alternating; the minimum is the cost, the median what a busy
machine makes of it.
"""

import json
import platform
import statistics
import time
from pathlib import Path

from cvmprobe.native.recording import PARTS, cost_ns

GOAL_NS = 50.0
REPEATS = 60
OPERATIONS = 20_000
RESULT = Path("build/bench/record_cost.json")


def measure() -> dict[str, dict[str, float]]:
    """Return {part: {minimum, median}} in ns per operation, the bare loop subtracted."""
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    for _ in range(REPEATS):
        for part, costs in taken.items():
            costs.append(cost_ns(part, OPERATIONS))
    loop = taken.pop("loop")
    return {
        part: {
            "minimum": max(0.0, min(costs) - min(loop)),
            "median": max(0.0, statistics.median(costs) - statistics.median(loop)),
        }
        for part, costs in taken.items()
    }


def main() -> None:
    """Measure, print, and keep the figures as JSON."""
    costs = measure()
    machine = f"{platform.machine()}, Linux {platform.release()}"
    met = "met" if costs["all"]["minimum"] <= GOAL_NS else "missed"
    lines = [
        f"recording one operation, ns, {OPERATIONS} operations x {REPEATS} ({machine}, {time.strftime('%Y-%m-%d')})",
        f"{'part':<22}{'minimum':>10}{'median':>10}",
        *(f"{part:<22}{cost['minimum']:>10.1f}{cost['median']:>10.1f}" for part, cost in costs.items()),
        f"goal <= {GOAL_NS:.0f} ns all in: {met}",
    ]
    print("\n".join(lines))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine, "goal_ns": GOAL_NS, "cost_ns": costs}, indent=2))


if __name__ == "__main__":
    main()
