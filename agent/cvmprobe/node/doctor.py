"""python -m cvmprobe.node.doctor: what this node or pod is, and whether measuring is sound in it.

Needs no more than the agent does, so that ``kubectl exec`` can run it in an agent's pod.
Exit code: 0 measuring is sound, 1 it is not, 2 wrong usage.
"""

import argparse
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cvmprobe.analysis.diagnosis import diagnose, examination_record, is_sound
from cvmprobe.errors import ProbeError, UsageError
from cvmprobe.model.environment import Environment
from cvmprobe.node.page import page
from cvmprobe.probes.environment import environment
from cvmprobe.probes.facts.checkup import checkup

__all__ = ["examine", "main", "named_volumes"]


def examine(volumes: Mapping[str, Path]) -> Environment:
    """Return this node's environment with what the doctor tries in addition; takes a second or two."""
    found = environment(volumes=volumes)
    return Environment((*found.facts, *checkup(volumes)), found.tee)


def named_volumes(paths: list[Path]) -> dict[str, Path]:
    """Return directories by their last name, numbered where two share one. Raises UsageError."""
    volumes: dict[str, Path] = {}
    for path in paths:
        try:
            is_directory = path.is_dir()
        except OSError as error:
            raise UsageError(f"--volume {path}: {error.strerror}: run as a user who may go there") from None
        if not is_directory:
            raise UsageError(f"--volume {path}: there is no such directory")
        name = path.resolve().name or "root"
        volumes[name if name not in volumes else f"{name}{len(volumes)}"] = path
    return volumes


def main(arguments: list[str] | None = None) -> int:
    """Print the page or its record; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        found = examine(named_volumes(given.volume))
    except ProbeError as error:
        sys.stderr.write(f"cvmprobe doctor: {error}\n")
        return error.exit_code
    findings = diagnose(found)
    if given.output_format == "json":
        record = examination_record(platform.node(), found)
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n")
    else:
        sys.stdout.write(page(platform.node(), found, findings) + "\n")
    return 0 if is_sound(findings) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cvmprobe.node.doctor",
        description="Say what this node is, and whether measuring is sound in it.",
    )
    parser.add_argument(
        "--volume", type=Path, action="append", default=[], metavar="DIR", help="look below this directory too"
    )
    parser.add_argument("-o", "--output-format", choices=("page", "json"), default="page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
