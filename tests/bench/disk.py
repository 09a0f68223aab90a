"""The disk engine beside fio on one prepared file: IOPS, mean latency and CPU per operation, pair by pair.

    python tests/bench/disk.py [--seconds 1] [--pairs 10] [--only io_uring-randread-32] [--directory build/bench]

fio runs with what we use: direct I/O, and for io_uring registered file and buffers. Its `lat` is compared, not its
`clat`, which leaves the submitting call out. CPU is that of the thread (ours) or process (fio's job) that does the I/O.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pairs import Comparison, Figure, compare, print_comparison, write_json

from cvmprobe.native.disk import Disk
from cvmprobe.probes import scratch

MIB = 1 << 20
FILE_BYTES = 256 * MIB
BLOCK_BYTES = 4096
RESULT = Path("build/bench/disk.json")
FIO_OPTIONS = {"io_uring": ["--fixedbufs=1", "--registerfiles=1"], "libaio": []}


@dataclass(frozen=True, slots=True)
class Mode:
    """What both sides do."""

    engine: str
    kind: str
    depth: int

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.kind}-{self.depth}"


FIGURES = [
    Figure("IOPS", "1/s", higher_is_better=True),
    Figure("mean latency", "us", higher_is_better=False),
    Figure("CPU", "us per operation", higher_is_better=False),
]
MODES = [Mode(*parts) for parts in itertools.product(FIO_OPTIONS, ("randread", "randwrite"), (1, 32))]


@contextmanager
def prepared_file(directory: Path) -> Iterator[Path]:
    """A file that fio can open too, filled and proven as the probe does it, and removed at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"disk-{uuid.uuid4().hex}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT)
    try:
        scratch.fill(fd, FILE_BYTES, f"fill {path}")
        scratch.prove(fd, FILE_BYTES)
        yield path
    finally:
        os.close(fd)
        path.unlink()


def run_ours(path: Path, mode: Mode, seconds: float) -> dict[str, float]:
    """Measure with our engine."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    engine = Disk(
        fds=[fd],
        file_bytes=FILE_BYTES,
        block_bytes=BLOCK_BYTES,
        depth=mode.depth,
        engine=mode.engine,
        read_percent=0 if mode.kind == "randwrite" else 100,
        max_write_bytes=1 << 50,
        seed=int.from_bytes(os.urandom(8), "little"),
        duration_ms=int(seconds * 1000),
    )
    try:
        engine.arm()
        engine.start()
        armed_cpu_ns = engine.snapshot().counters["cpu_ns"]
        last = engine.snapshot(engine.started_ns + int((seconds + 60) * 1e9))
        engine.stop()
        if engine.error is not None:
            sys.exit(f"our engine failed: {engine.error}")
    finally:
        engine.close()
        os.close(fd)
    total = last.histograms["total_ns"]
    return {
        "IOPS": total.count / ((last.t_ns - engine.started_ns) / 1e9),
        "mean latency": total.sum / total.count / 1000,
        "CPU": (last.counters["cpu_ns"] - armed_cpu_ns) / total.count / 1000,
    }


def run_fio(path: Path, mode: Mode, seconds: float) -> dict[str, float]:
    """Measure with fio, told to do the same."""
    done = subprocess.run(
        [
            "fio", "--name=peer", f"--filename={path}", f"--size={FILE_BYTES}", "--direct=1", f"--rw={mode.kind}",
            f"--bs={BLOCK_BYTES}", f"--iodepth={mode.depth}", f"--ioengine={mode.engine}", *FIO_OPTIONS[mode.engine],
            "--norandommap", "--randrepeat=0", f"--runtime={int(seconds * 1000)}ms", "--time_based",
            "--allow_file_create=0", "--output-format=json",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )  # fmt: skip
    job = json.loads(done.stdout)["jobs"][0]
    side = job["write" if mode.kind == "randwrite" else "read"]
    cpu_s = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    return {
        "IOPS": side["total_ios"] / (side["runtime"] / 1000),
        "mean latency": side["lat_ns"]["mean"] / 1000,
        "CPU": cpu_s * 1e6 / side["total_ios"],
    }


def compare_mode(path: Path, mode: Mode, seconds: float, pairs: int, version: str) -> list[Comparison]:
    """Run the pairs of one mode."""
    settings = {"block_bytes": str(BLOCK_BYTES), "direct": "1", "seconds": str(seconds)}
    settings |= {option.strip("-").split("=")[0]: "1" for option in FIO_OPTIONS[mode.engine]}
    return compare(
        mode.name,
        ours=lambda: run_ours(path, mode, seconds),
        peer=lambda: run_fio(path, mode, seconds),
        figures=FIGURES,
        peer_version=version,
        settings=settings,
        count=pairs,
    )


def main() -> None:
    """Compare every mode, print as it goes, and keep all pairs as JSON."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=float, default=1.0)
    arguments.add_argument("--pairs", type=int, default=10)
    arguments.add_argument("--only", choices=[mode.name for mode in MODES], action="append")
    arguments.add_argument("--directory", type=Path, default=RESULT.parent)
    chosen = arguments.parse_args()
    if shutil.which("fio") is None:
        sys.exit("skipped: fio is not installed (Debian: apt-get install fio)")
    version = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    comparisons = []
    with prepared_file(chosen.directory) as path:
        for mode in MODES:
            if chosen.only and mode.name not in chosen.only:
                continue
            for comparison in compare_mode(path, mode, chosen.seconds, chosen.pairs, version):
                print_comparison(comparison)
                comparisons.append(comparison)
            write_json(RESULT, comparisons)


if __name__ == "__main__":
    main()
