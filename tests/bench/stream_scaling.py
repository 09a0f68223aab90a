"""tcp_stream over 1 to 16 connections, copied and discarded, as a table and a plot.

    python tests/bench/stream_scaling.py [--seconds 1]

Results in build/bench/stream_scaling.json and .svg.
"""

import argparse
import json
import sys
from pathlib import Path

from peers import OurResponder
from stream import iperf3_discards, our_stream

RESULT = Path("build/bench/stream_scaling.json")
STREAMS = (1, 2, 4, 8, 16)
RECEIVE = {"copy": "#1f77b4", "discard": "#d62728"}
WIDTH, HEIGHT, MARGIN = 640, 400, 60
TICKS = 5


def plot(rows: list[dict]) -> str:
    """Goodput over the number of connections, as SVG."""
    most = max(row["goodput"] for row in rows)
    step = (WIDTH - 2 * MARGIN) / (len(STREAMS) - 1)

    def y(goodput: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * goodput / most

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">']
    for place, streams in enumerate(STREAMS):
        at = MARGIN + place * step
        parts.append(f'<text x="{at:.0f}" y="{HEIGHT - MARGIN + 20}" text-anchor="middle">{streams}</text>')
    for value in (most * tick / TICKS for tick in range(TICKS + 1)):
        parts.append(f'<text x="{MARGIN - 8}" y="{y(value):.0f}" text-anchor="end">{value:.1f}</text>')
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(value):.0f}" y2="{y(value):.0f}" stroke="#ddd"/>'
        )
    for receive, colour in RECEIVE.items():
        values = [row["goodput"] for row in rows if row["receive"] == receive]
        points = " ".join(f"{MARGIN + place * step:.1f},{y(value):.1f}" for place, value in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - MARGIN + 6}" y="{y(values[-1]):.0f}" fill="{colour}">{receive}</text>')
    parts.append(f'<text x="{MARGIN}" y="{MARGIN / 2:.0f}">Gbit/s</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">connections</text></svg>')
    return "\n".join(parts) + "\n"


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
