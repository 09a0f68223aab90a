"""The shipped seccomp profile is what its script writes, and opens no more than it says."""

import json
import runpy
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/seccomp"
SHIPPED = json.loads((FOLDER / "cvmprobe.json").read_text())
RUNTIME_DEFAULT = json.loads((ROOT / "tests/data/seccomp/containerd-2.4-amd64.json").read_text())


def allowed(profile):
    rules = [rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
    return {name for rule in rules for name in rule["names"]}


def test_the_profile_is_fresh():
    assert (FOLDER / "cvmprobe.json").read_text() == runpy.run_path(str(FOLDER / "profile.py"))["text"]()


def test_beyond_the_runtimes_default_it_allows_io_uring_and_nothing_else():
    assert allowed(SHIPPED) - allowed(RUNTIME_DEFAULT) == {"io_uring_setup", "io_uring_enter", "io_uring_register"}
    assert "SCMP_ACT_ALLOW" not in SHIPPED["defaultAction"]


def test_it_opens_no_way_to_namespaces_mounts_or_other_processes():
    risky = {"bpf", "clone3", "keyctl", "mount", "perf_event_open", "ptrace", "setns", "unshare", "userfaultfd"}
    assert allowed(SHIPPED) & risky == set()
    (clone,) = [rule for rule in SHIPPED["syscalls"] if rule["names"] == ["clone"]]
    assert clone["args"][0]["value"] == 0x7E020000
    assert clone["args"][0]["op"] == "SCMP_CMP_MASKED_EQ"


def test_no_call_is_named_twice():
    named = [name for rule in SHIPPED["syscalls"] for name in rule["names"] if name != "socket"]
    assert len(named) == len(set(named))


def test_the_overlay_uses_the_file_that_is_shipped():
    overlay = yaml.safe_load((ROOT / "deploy/io-uring/kustomization.yaml").read_text())
    (patch,) = overlay["patches"]
    (operation,) = yaml.safe_load(patch["patch"])
    assert operation["value"] == {"type": "Localhost", "localhostProfile": "cvmprobe/cvmprobe.json"}
    assert operation["path"] == "/spec/template/spec/securityContext/seccompProfile"
