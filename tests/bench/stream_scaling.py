"""tcp_stream over 1 to 16 connections, copied and discarded, as a table and a plot.

    python tests/bench/stream_scaling.py [--seconds 1]

Results in build/bench/stream_scaling.json and .svg.
"""

import argparse
import json
import sys
from pathlib import Path

from chart import chart
from peers import OurResponder
from stream import iperf3_discards, our_stream

RESULT = Path("build/bench/stream_scaling.json")
STREAMS = (1, 2, 4, 8, 16)
RECEIVE = ("copy", "discard")
TICKS = 5


def plot(rows: list[dict]) -> str:
    """Goodput over the number of connections, as SVG."""
    most = max(row["goodput"] for row in rows)
    across = {streams: place / (len(STREAMS) - 1) for place, streams in enumerate(STREAMS)}
    return chart(
        {str(streams): place for streams, place in across.items()},
        {f"{most * tick / TICKS:.1f}": tick / TICKS for tick in range(TICKS + 1)},
        {
            receive: [(across[row["connections"]], row["goodput"] / most) for row in rows if row["receive"] == receive]
            for receive in RECEIVE
        },
        "Gbit/s over connections",
    )


def main() -> None:
    """Measure each number of connections once for each way to receive."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=float, default=1)
    chosen = arguments.parse_args()
    if not iperf3_discards():
        sys.stdout.write("discard: not compared with iperf3: the one installed, if any, has no --skip-rx-copy\n")
    rows = []
    responder = OurResponder()
    try:
        sys.stdout.write(f"{'receive':>8} {'connections':>11} {'Gbit/s':>8} {'sender + receiver CPU us/MB':>28}\n")
        for receive in RECEIVE:
            for streams in STREAMS:
                found = our_stream(responder, streams, chosen.seconds, discard=receive == "discard")
                rows.append({"receive": receive, "connections": streams, **found})
                cpu = f"{found['sender CPU']:.0f} + {found['receiver CPU']:.0f}"
                sys.stdout.write(f"{receive:>8} {streams:>11} {found['goodput']:>8.2f} {cpu:>28}\n")
    finally:
        responder.close()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=2) + "\n")
    RESULT.with_suffix(".svg").write_text(plot(rows))


if __name__ == "__main__":
    main()
