"""What disturbs a measurement is told: a CPU quota, a neighbour on the same CPU, a node that is busy before."""

import json
import os
import subprocess
import sys
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 20_000

# An engine that ticks at a rate (0: without a pause) on one CPU, run and judged as every probe is.
MEASURE = """
import json, os, sys
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.window import Direction, Instance, Probe
from cvmprobe.native.timer import Timer
from cvmprobe.probes.execution import Completed, Execution, Setup

rate, cpu, group, max_pressure = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
if group:
    open(f"{group}/cgroup.procs", "w").write(str(os.getpid()))
os.sched_setaffinity(0, {cpu})

class Ticking:
    omit_ms, operations = 0, ("ticks",)
    def open(self, stopping):
        engine = Timer(rate_per_s=rate, duration_ms=1_500)
        engine.arm()
        return engine
    def complete(self, windows, totals):
        return Completed(windows, totals)
    def close(self):
        pass

instance = Instance("a" * 32, Probe.COMPUTE, Endpoint("n", Role.POD), VolumeTarget("none"), Direction.NONE, 0)
setup = Setup(instance, interval_ms=500, duration_ms=1_500, max_bytes=0, max_pressure=max_pressure)
execution = Execution(setup, Ticking())
windows = list(execution.observe())
counters = {}
for window in windows:
    for name, value in window.counters.items():
        counters[name] = counters.get(name, 0) + value
print(json.dumps({
    "flags": sorted({flag for window in windows for flag in window.flags}),
    "before": [window.facts.get("pressure_before") for window in windows],
    "error": str(execution.result().error or ""),
    "counters": counters,
}))
"""


def measure(*, rate=0, cpu=0, group="", max_pressure=1.0):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(rate), str(cpu), str(group), str(max_pressure)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def quota(cpus):
    """Make a cgroup that may use so many CPUs, in whichever hierarchy has the cpu controller."""
    name = f"cvmprobe-test-{uuid.uuid4().hex[:8]}"
    newer = "cpu" in _text(CGROUPS / "cgroup.subtree_control").split()
    if not newer and not (CGROUPS / "cpu/cpu.cfs_quota_us").exists() and not (CGROUPS / "cpu/tasks").exists():
        pytest.skip("no cgroup here has the cpu controller")
    group = CGROUPS / name if newer else CGROUPS / "cpu" / name
    group.mkdir()
    try:
        share = int(cpus * PERIOD_US)
        if newer:
            (group / "cpu.max").write_text(f"{share} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(share))
        yield group
    finally:
        group.rmdir()


def _text(path):
    return path.read_text() if path.exists() else ""


@contextmanager
def neighbours(count, cpu=None):
    """Keep so many processes busy, on one CPU where one is named."""
    pin = "" if cpu is None else f"import os; os.sched_setaffinity(0, {{{cpu}}})\n"
    program = f"{pin}print('busy', flush=True)\nwhile True: pass"
    with ExitStack() as ends:
        for _ in range(count):
            busy = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
            ends.callback(busy.wait)
            ends.callback(busy.kill)
            assert busy.stdout.readline() == b"busy\n"
            ends.callback(busy.stdout.close)
        yield


def test_a_cpu_quota_is_told_and_how_much_it_took():
    with quota(0.1) as group:
        told = measure(group=group)
    print(told)
    assert "throttled" in told["flags"]
    assert told["counters"]["throttled_periods"] >= 2
    assert told["counters"]["throttled_ns"] > 1_000_000


def test_without_a_quota_nothing_is_throttled():
    with quota(100) as group:
        told = measure(rate=100, group=group)
    assert "throttled" not in told["flags"]
    assert told["counters"]["throttled_periods"] == 0


def test_a_neighbour_on_the_same_cpu_starves_an_engine_that_never_rests():
    with neighbours(2, cpu=0):
        told = measure(cpu=0)
    print(told)
    assert "starved" in told["flags"]
    assert told["counters"]["run_delay_ns"] > 100_000_000
    assert told["counters"]["cpu_pressure_ns"] > 100_000_000


def test_a_neighbour_makes_a_paced_engine_late_or_starved():
    with neighbours(3, cpu=0):
        told = measure(rate=2_000, cpu=0)
    print(told)
    assert {"late", "starved"} & set(told["flags"])


def test_a_busy_node_is_flagged_before_it_is_measured_and_refused_past_the_limit():
    with neighbours(3 * (os.cpu_count() or 1)):
        flagged, refused = measure(rate=10), measure(rate=10, max_pressure=0.1)
    print(flagged, refused)
    if not any(flagged["before"]):
        pytest.skip("this kernel counts no pressure (psi=1)")
    assert "pressed" in flagged["flags"]
    assert flagged["error"] == ""
    assert refused["flags"] == []
    assert "waited for cpu" in refused["error"]
