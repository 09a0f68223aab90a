"""tcp_rr over 1 to 1000 connections (wait=epoll, one thread at each end), as a table and a plot; cost of kernel stamps.

    python tests/bench/rr_connections.py [--seconds 1] [--pairs 6]

Results in build/bench/rr_connections.json and .svg.
"""

import argparse
import json
import math
import resource
import sys
from pathlib import Path

from chart import chart
from pairs import compare, print_comparison
from peers import OurResponder
from rr import COSTS, LATENCIES, our_rr

RESULT = Path("build/bench/rr_connections.json")
CONNECTIONS = (1, 3, 10, 30, 100, 300, 1000)
COLUMNS = ("rate", "p50", "p99", "initiator CPU", "responder CPU")


def share(value: float, low: float, high: float) -> float:
    """Place of a value on a logarithmic axis, as a share of its length."""
    return math.log(value / low) / math.log(high / low)


def plot(rows: list[dict[str, float]]) -> str:
    """p50 and p99 over the number of connections, both axes logarithmic, as SVG."""
    low = math.floor(math.log10(min(row["p50"] for row in rows)))
    high = math.ceil(math.log10(max(row["p99"] for row in rows)))
    across = {connections: share(connections, CONNECTIONS[0], CONNECTIONS[-1]) for connections in CONNECTIONS}
    return chart(
        {str(connections): place for connections, place in across.items()},
        {f"{10**power} us": (power - low) / (high - low) for power in range(low, high + 1)},
        {
            name: [(across[int(row["connections"])], share(row[name], 10**low, 10**high)) for row in rows]
            for name in ("p50", "p99")
        },
        "connections",
    )


def main() -> None:
    """Measure each number of connections once, then pairs with and without kernel stamps."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=float, default=1)
    arguments.add_argument("--pairs", type=int, default=6)
    chosen = arguments.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # both ends inherit it
    responder = OurResponder()
    try:
        rows = []
        sys.stdout.write(
            f"{'connections':>11} {'per second':>12} {'p50 us':>10} {'p99 us':>10} {'CPU us/transaction':>20}\n"
        )
        for connections in CONNECTIONS:
            found = our_rr(responder, chosen.seconds, wait="epoll", connections=connections)
            rows.append({"connections": connections, **{name: found[name] for name in COLUMNS}})
            costs = f"{found['initiator CPU']:.2f} + {found['responder CPU']:.2f}"
            line = f"{connections:>11} {found['rate']:>12.0f} {found['p50']:>10.1f} {found['p99']:>10.1f} {costs:>20}\n"
            sys.stdout.write(line)
        stamps = compare(
            "tcp_rr with kernel stamps",
            ours=lambda: our_rr(responder, chosen.seconds, wait="block", kernel_stamps=True),
            peer=lambda: our_rr(responder, chosen.seconds, wait="block"),
            figures=LATENCIES + COSTS,
            peer_version="itself without",
            settings={"wait": "block"},
            count=chosen.pairs,
        )
        for comparison in stamps:
            print_comparison(comparison)
    finally:
        responder.close()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=2) + "\n")
    RESULT.with_suffix(".svg").write_text(plot(rows))


if __name__ == "__main__":
    main()
