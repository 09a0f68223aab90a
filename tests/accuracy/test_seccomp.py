"""Which engine a profile leaves, through runc: RuntimeDefault refuses io_uring, the shipped profile allows it.

"Nothing else denied" is shown with the same profiles whose default answer is a kill: whoever asks for what is not
listed does not come to its end. Only what a profile means to refuse is refused there too.
"""

import copy
import errno
import json
import platform
import signal
import sys
from pathlib import Path

import pytest
from tests.accuracy.container import missing, run_in_container

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_DEFAULT = json.loads((ROOT / "tests/data/seccomp/containerd-2.4-amd64.json").read_text())
SHIPPED = json.loads((ROOT / "deploy/seccomp/cvmprobe.json").read_text())
IO_URING = ["io_uring_setup", "io_uring_enter", "io_uring_register"]

DISK = """
import json, sys
from pathlib import Path
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.window import Direction, Instance, Probe
from cvmprobe.probes.catalog import prepare
from cvmprobe.probes.execution import Setup

parameters = {"file_bytes": str(4 << 20), "depth": "4", "any_filesystem": "true"}
source, target = Endpoint("n", Role.POD), VolumeTarget("work")
instance = Instance("a" * 32, Probe.DISK, source, target, Direction.NONE, 0, parameters)
setup = Setup(instance, interval_ms=100, duration_ms=200, max_bytes=8 << 20, volume=Path("/work"))
execution = prepare(setup)
for _ in execution.observe():
    pass
result = execution.result()
window = result.windows[-1]
print(json.dumps({
    "error": str(result.error or ""),
    "engine": window.facts["engine"],
    "fallback": window.facts.get("fallback", ""),
    "degraded": all("degraded" in window.flags for window in result.windows),
    "reads": result.totals["reads"],
}))
"""

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "runc is there"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the recorded RuntimeDefault is x86_64's"),
]


def deadly(profile, refused, number):
    """Return the profile with a kill as its default answer; ``refused`` still fail with ``number``."""
    changed = copy.deepcopy(profile)
    changed.pop("defaultErrnoRet", None)
    changed["defaultAction"] = "SCMP_ACT_KILL_PROCESS"
    changed["syscalls"].append({"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": number})
    return changed


PROFILES = {
    "runtime-default": RUNTIME_DEFAULT,
    "runtime-default, deadly": deadly(RUNTIME_DEFAULT, IO_URING, errno.EPERM),
    "shipped": SHIPPED,
    "shipped, deadly": deadly(SHIPPED, ["clone3"], errno.ENOSYS),  # its flags cannot be seen, so libc must use clone
}


@pytest.fixture
def container(tmp_path):
    """Runs a command in a container under a named profile, and returns what it printed."""
    made = []

    def run(profile, *command, codes=(0,)):
        made.append(len(made))
        bundle, work = tmp_path / f"bundle{made[-1]}", tmp_path / f"work{made[-1]}"
        bundle.mkdir()
        work.mkdir()
        code, out, err = run_in_container(bundle, work, PROFILES[profile], *command)
        assert code != 128 + signal.SIGSYS, f"{profile} denies something else: {err}"
        assert code in codes, f"exit code {code}: {err or out}"
        return out

    return run


@pytest.mark.parametrize("profile", ["runtime-default", "runtime-default, deadly"])
def test_the_runtimes_default_leaves_libaio_and_the_windows_say_so(container, profile):
    found = json.loads(container(profile, sys.executable, "-c", DISK))
    assert found.pop("reads") > 0
    assert "io_uring_setup: EPERM (errno 1)" in found.pop("fallback")
    assert found == {"error": "", "engine": "libaio", "degraded": True}


@pytest.mark.parametrize("profile", ["shipped", "shipped, deadly"])
def test_the_shipped_profile_lets_io_uring_work(container, profile):
    found = json.loads(container(profile, sys.executable, "-c", DISK))
    assert found.pop("reads") > 0
    assert found == {"error": "", "engine": "io_uring", "fallback": "", "degraded": False}


@pytest.mark.parametrize(
    ("profile", "io_uring"),
    [
        ("runtime-default, deadly", "refused: io_uring_setup: EPERM (errno 1)"),
        ("shipped, deadly", "available"),
    ],
)
def test_the_doctor_sees_what_the_profile_allows(container, profile, io_uring):
    sound_or_not = (0, 1)
    printed = container(profile, sys.executable, "-m", "cvmprobe.node.doctor", "-o", "json", codes=sound_or_not)
    facts = {name: fact["value"] for name, fact in json.loads(printed)["environment"]["facts"].items()}
    assert facts["engine_io_uring"] == io_uring
    assert (facts["engine_libaio"], facts["engine_udp_gso"]) == ("available", "available")
    assert (facts["seccomp_mode"], facts["no_new_privileges"], facts["user_id"]) == ("filter", "1", "65532")
    assert facts["interface_lo_qdisc"]
    notes = {finding["subject"]: finding for finding in json.loads(printed)["findings"]}
    assert ("io_uring" in notes) is (io_uring != "available")


@pytest.mark.parametrize("profile", ["runtime-default, deadly", "shipped, deadly"])
def test_collector_agents_and_all_probes_of_the_quick_suite_need_nothing_else(container, profile):
    partial_or_done = (0, 3)  # /work may be a file system that the disk probe will not take
    command = (sys.executable, "-m", "cvmprobe.cli", "run", "quick", "--local", "--scale", "0.05")
    printed = container(profile, *command, codes=partial_or_done)
    for probe in ("tcp_rr", "tcp_stream"):
        assert probe in printed


def test_the_filter_that_kills_does_kill(container):
    """Else the tests above could not fail."""
    forbidden = "import ctypes; ctypes.CDLL(None).unshare(0)"
    with pytest.raises(AssertionError, match="denies something else"):
        container("shipped, deadly", sys.executable, "-c", forbidden)
