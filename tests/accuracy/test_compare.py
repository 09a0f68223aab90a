"""A known difference in speed is found: a CPU quota that takes a tenth of the compute; and none where there is none."""

import json
import os
import subprocess
import sys

import pytest
from tests.accuracy.test_interference import quota

REPEATS = 12
PERIOD_US = 10_000  # short beside a repetition, so that each has its share

# Two sides whose repeats take turns; the second has only so much of a CPU.
COMPARE = """
import json, os, sys
from tests.bench.short_run import COMPUTE, sides
from cvmprobe.analysis import compare

group, share = sys.argv[1], float(sys.argv[2])
probe, duration_ms, parameters = COMPUTE["integer"]
steps = {"integer": (probe, duration_ms, parameters | {"repetition_ms": "50", "repetitions": "10"})}
newer = os.path.exists(f"{group}/cpu.max")
weight, most = ("cpu.weight", "10000") if newer else ("cpu.shares", "262144")
open(f"{group}/{weight}", "w").write(most)  # what else runs here must not decide the test
open(f"{group}/cgroup.procs", "w").write(str(os.getpid()))

def limit(side):
    quota_us = int(PERIOD_US * share) if side and share < 1 else -1
    if newer:
        open(f"{group}/cpu.max", "w").write(f"{quota_us if quota_us > 0 else 'max'} {PERIOD_US}")
    else:
        open(f"{group}/cpu.cfs_quota_us", "w").write("-1")
        open(f"{group}/cpu.cfs_period_us", "w").write(str(PERIOD_US))
        open(f"{group}/cpu.cfs_quota_us", "w").write(str(quota_us))

rows = compare(*sides(REPEATS, steps, interleaved=True, before=limit), min_effect=0.02)
print(json.dumps([[row.kind.step, row.verdict, row.loss, row.contrast.low, row.contrast.high] for row in rows]))
"""


def compared(share):
    with quota(100) as group:
        done = subprocess.run(
            [sys.executable, "-c", f"PERIOD_US, REPEATS = {PERIOD_US}, {REPEATS}\n{COMPARE}", str(group), str(share)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    ((_, verdict, loss, *_),) = json.loads(done.stdout)
    return verdict, loss


def test_a_tenth_less_compute_is_found():
    verdict, loss = compared(0.9)
    assert verdict == "worse"
    assert loss == pytest.approx(1 / 0.9 - 1, abs=0.06)  # the quota is given out in slices


def test_the_same_compute_raises_no_alarm():
    verdict, _ = compared(1.0)
    assert verdict in ("same", "undecided")
