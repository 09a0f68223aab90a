"""The disk engine beside fio on one prepared file: IOPS, latency and CPU per operation, pair by pair.

    python tests/bench/disk.py [--seconds 1] [--pairs 10] [--only io_uring-randread-32] [--directory build/bench]

The comparisons, each with the same interface, block size and depth on both sides:
    io_uring-randread-32          as many as go; for io_uring with registered file and buffers on both sides
    io_uring-fio_defaults-...     the same, where fio registers nothing
    io_uring-randread-1-at_half   at a fixed rate, half of what fio did at most: median and p99 of the latency
    io_uring-memory-randread-32   of a file in memory: what the programs themselves can do, no device in the way

fio's `lat` is compared, not its `clat`, which leaves the submitting call out; ours is `total_ns`, and at a rate
`service_ns`, because fio's does not begin at the intended start. CPU is that of the thread (ours) or process (fio's
job) that does the I/O.

At a rate fio waits for all it has in flight before it sleeps until the next start. At depth 1 that is what we do.
Deeper, its starts come in bunches that follow the device, and a pause of the device delays them instead of being
charged to them: 1 ms of silence hits the few that are in flight, where of a constant 57,000 a second it hits all that
find a slot. So at depth 32 the p99 and the CPU time of at_half are those of unlike arrivals. Only with
`--ioengine=psync --io_submit_mode=offload` does fio start on time, by a pool of threads, and there 3.33 may never end.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pairs import Comparison, Figure, compare, print_comparison, write_json

from cvmprobe.analysis.distribution import percentile
from cvmprobe.model.histogram import Histogram
from cvmprobe.native.disk import Disk
from cvmprobe.native.histogram import Histogram as NativeHistogram
from cvmprobe.probes import scratch

MIB = 1 << 20
FILE_BYTES = 256 * MIB
MEMORY = Path("/dev/shm")
RESULT = Path("build/bench/disk.json")
REGISTERED = ["--fixedbufs=1", "--registerfiles=1"]
READ_PERCENT = {"randread": 100, "randwrite": 0, "randrw": 70, "read": 100, "write": 0}


@dataclass(frozen=True, slots=True)
class Mode:
    """What both sides do."""

    engine: str
    kind: str
    depth: int
    fio_defaults: bool = False
    at_half: bool = False
    memory: bool = False

    @property
    def name(self) -> str:
        """What it is called in the results."""
        words = [self.engine, *["fio_defaults"] * self.fio_defaults, *["memory"] * self.memory]
        return "-".join([*words, self.kind, str(self.depth), *["at_half"] * self.at_half])

    @property
    def block_bytes(self) -> int:
        """Sequential is 1 MiB."""
        return 4096 if self.kind.startswith("rand") else MIB

    @property
    def registered(self) -> bool:
        """Whether fio registers file and buffers, as we do."""
        return self.engine == "io_uring" and not self.fio_defaults


FIGURES = [
    Figure("IOPS", "1/s", higher_is_better=True),
    Figure("mean latency", "us", higher_is_better=False),
    Figure("CPU", "us per operation", higher_is_better=False),
]
RATE_FIGURES = [
    Figure("p50 latency", "us", higher_is_better=False),
    Figure("p99 latency", "us", higher_is_better=False),
    Figure("CPU", "us per operation", higher_is_better=False),
]
ENGINES, DEPTHS = ("io_uring", "libaio"), (1, 32, 128)
MODES = [
    *(Mode(*parts) for parts in itertools.product(ENGINES, READ_PERCENT, DEPTHS)),
    *(Mode("io_uring", "randread", depth, fio_defaults=True) for depth in DEPTHS),
    *(Mode(engine, "randread", depth, at_half=True) for engine, depth in itertools.product(ENGINES, (1, 32))),
    *(Mode(engine, "randread", 32, memory=True) for engine in ENGINES),
]


@contextmanager
def prepared_file(directory: Path, *, memory: bool = False) -> Iterator[Path]:
    """A file that fio can open too, filled and proven as the probe does it, and removed at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"cvmprobe-disk-{uuid.uuid4().hex}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT)
    try:
        scratch.fill(fd, FILE_BYTES, f"fill {path}")
        scratch.prove(fd, FILE_BYTES, required=not memory)
        yield path
    finally:
        os.close(fd)
        path.unlink()


def run_ours(path: Path, mode: Mode, seconds: float, rate: float = 0) -> dict[str, float]:
    """Measure with our engine."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    engine = Disk(
        fds=[fd],
        file_bytes=FILE_BYTES,
        block_bytes=mode.block_bytes,
        depth=mode.depth,
        engine=mode.engine,
        sequential=not mode.kind.startswith("rand"),
        read_percent=READ_PERCENT[mode.kind],
        max_write_bytes=1 << 50,
        rate_per_s=rate,
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
    latency = last.histograms["service_ns" if rate else "total_ns"]
    return {
        "IOPS": latency.count / ((last.t_ns - engine.started_ns) / 1e9),
        "mean latency": latency.sum / latency.count / 1000,
        "p50 latency": quantile_us(latency, 0.5),
        "p99 latency": quantile_us(latency, 0.99),
        "CPU": (last.counters["cpu_ns"] - armed_cpu_ns) / latency.count / 1000,
    }


def quantile_us(of: NativeHistogram, q: float) -> float:
    """A quantile as every table of ours has it."""
    buckets = dict(zip(*of.sparse(), strict=True))
    return (percentile(Histogram(buckets=buckets, zero=of.zero, overflow=of.overflow), q) or 0) / 1000


def run_fio(path: Path, mode: Mode, seconds: float, rate: float = 0) -> dict[str, float]:
    """Measure with fio, told to do the same."""
    done = subprocess.run(
        [
            "fio", "--name=peer", f"--filename={path}", f"--size={FILE_BYTES}", "--direct=1", f"--rw={mode.kind}",
            f"--bs={mode.block_bytes}", f"--iodepth={mode.depth}", f"--ioengine={mode.engine}",
            *(REGISTERED if mode.registered else []), f"--rwmixread={READ_PERCENT[mode.kind]}", "--norandommap",
            "--randrepeat=0", f"--runtime={int(seconds * 1000)}ms", "--time_based", "--allow_file_create=0",
            "--lat_percentiles=1", "--percentile_list=50:99", "--output-format=json",
            *([f"--rate_iops={rate:.0f}"] if rate else []),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )  # fmt: skip
    job = json.loads(done.stdout)["jobs"][0]
    sides = [side for side in (job["read"], job["write"]) if side["total_ios"]]
    count = sum(side["total_ios"] for side in sides)
    cpu_s = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    quantiles = sides[0]["lat_ns"].get("percentile", {})
    return {
        "IOPS": count / (max(side["runtime"] for side in sides) / 1000),
        "mean latency": sum(side["lat_ns"]["mean"] * side["total_ios"] for side in sides) / count / 1000,
        "p50 latency": quantiles.get("50.000000", 0) / 1000,
        "p99 latency": quantiles.get("99.000000", 0) / 1000,
        "CPU": cpu_s * 1e6 / count,
    }


def compare_mode(path: Path, mode: Mode, seconds: float, pairs: int, version: str) -> list[Comparison]:
    """Run the pairs of one mode."""
    rate = run_fio(path, mode, seconds)["IOPS"] / 2 if mode.at_half else 0
    settings = {"block_bytes": str(mode.block_bytes), "direct": "1", "seconds": str(seconds)}
    settings |= {option.strip("-").split("=")[0]: "1" for option in REGISTERED if mode.registered}
    if rate:
        settings["rate_per_s"] = f"{rate:.0f}"
    return compare(
        mode.name,
        ours=lambda: run_ours(path, mode, seconds, rate),
        peer=lambda: run_fio(path, mode, seconds, rate),
        figures=RATE_FIGURES if rate else FIGURES,
        peer_version=version,
        settings=settings,
        count=pairs,
    )


def main() -> None:
    """Compare every mode, print as it goes, and keep all pairs as JSON."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=float, default=1.0)
    arguments.add_argument("--pairs", type=int, default=10)
    arguments.add_argument("--only", choices=[mode.name for mode in MODES], action="append", metavar="MODE")
    arguments.add_argument("--directory", type=Path, default=RESULT.parent)
    chosen = arguments.parse_args()
    if shutil.which("fio") is None:
        sys.exit("skipped: fio is not installed (Debian: apt-get install fio)")
    version = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    comparisons = []
    with ExitStack() as files:
        paths = {False: files.enter_context(prepared_file(chosen.directory))}
        if MEMORY.is_dir():
            paths[True] = files.enter_context(prepared_file(MEMORY, memory=True))
        for mode in MODES:
            if mode.memory not in paths or (chosen.only and mode.name not in chosen.only):
                continue
            for comparison in compare_mode(paths[mode.memory], mode, chosen.seconds, chosen.pairs, version):
                print_comparison(comparison)
                comparisons.append(comparison)
            write_json(RESULT, comparisons)


if __name__ == "__main__":
    main()
