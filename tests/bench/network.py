"""Our network engines beside their peers over loopback, pair by pair; each case is in the file of its probe.

    python tests/bench/network.py [--seconds 1] [--pairs 10] [--only tcp_stream-1]

Every side is two processes. CPU is user and system time: of our threads, of their processes.
"""

import argparse
import shutil
import sys
from pathlib import Path

import rr
import stream
import udp
from pairs import Comparison, compare, print_comparison, write_json
from peers import OurResponder, version_of

RESULT = Path("build/bench/network.json")
CASES = [*stream.CASES, *rr.CASES, *udp.CASES]


def main() -> None:
    """Compare every case whose peer is there, print as it goes, and keep all pairs as JSON."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=int, default=1)
    arguments.add_argument("--pairs", type=int, default=10)
    arguments.add_argument("--only", choices=[case.name for case in CASES], action="append")
    chosen = arguments.parse_args()
    comparisons: list[Comparison] = []
    responder = OurResponder()
    try:
        for case in CASES:
            if chosen.only and case.name not in chosen.only:
                continue
            if shutil.which(case.peer) is None:
                sys.stdout.write(f"{case.name}: skipped: {case.peer} is not installed (apt-get install {case.peer})\n")
                continue
            for comparison in compare(
                case.name,
                ours=lambda case=case: case.ours(responder, chosen.seconds),
                peer=lambda case=case: case.theirs(chosen.seconds),
                figures=case.figures,
                peer_version=version_of(case.peer),
                settings={**case.settings, "seconds": str(chosen.seconds)},
                count=chosen.pairs,
            ):
                print_comparison(comparison)
                comparisons.append(comparison)
            write_json(RESULT, comparisons)
    finally:
        responder.close()


if __name__ == "__main__":
    main()
