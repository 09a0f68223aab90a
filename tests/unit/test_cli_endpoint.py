"""Finding the collector: the local run's file, its process, and who may have written it."""

import os
import subprocess
import sys

import pytest

from cvmprobe.cli.endpoint import Connection, find, process_start, runtime_dir
from cvmprobe.errors import UnreachableError, UsageError


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return runtime_dir(create=True)


def connection(pid=0, started=""):
    return Connection(address="127.0.0.1:1", server_name="localhost", ca_pem="pem", token="t", pid=pid, started=started)


def test_the_file_of_a_living_run_is_found_and_is_ours_alone(runtime):
    written = connection(os.getpid(), process_start(os.getpid()))
    written.write(runtime / "endpoint.json")
    assert find(None, None, None) == written
    assert (runtime / "endpoint.json").stat().st_mode & 0o777 == 0o600
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_a_dead_process_is_recognised(runtime):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(child.pid)
    connection(child.pid, started).write(runtime / "endpoint.json")
    assert find(None, None, None).pid == child.pid
    child.communicate(b"\n")
    with pytest.raises(UnreachableError, match=rf"the local run \(process {child.pid}\) has ended; start one with"):
        find(None, None, None)


def test_a_later_process_of_the_same_number_is_no_run(runtime):
    connection(os.getpid(), "1").write(runtime / "endpoint.json")
    with pytest.raises(UnreachableError, match="has ended"):
        find(None, None, None)


def test_a_broken_file_is_named(runtime):
    (runtime / "endpoint.json").write_text("{")
    with pytest.raises(UnreachableError, match=r"endpoint\.json cannot be read .*; remove it"):
        find(None, None, None)


def test_a_directory_others_could_have_made_is_refused(runtime):
    runtime.chmod(0o755)
    with pytest.raises(UsageError, match="is not a directory of yours with mode 0700"):
        find(None, None, None)
    runtime.rmdir()
    runtime.symlink_to("/tmp")
    with pytest.raises(UsageError, match="is not a directory of yours"):
        runtime_dir(create=True)


def test_looking_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(UnreachableError):
        find(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_flags_name_another_collector(tmp_path):
    (tmp_path / "ca").write_text("pem")
    (tmp_path / "token").write_text("secret\n")
    found = find("[::1]:7443", tmp_path / "ca", tmp_path / "token")
    assert (found.address, found.server_name, found.ca_pem, found.token) == ("[::1]:7443", "::1", "pem", "secret")


def test_the_runtime_directory_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    for strange in (str(tmp_path / "none"), "/proc/1/cwd/none"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", strange)
        assert str(runtime_dir(create=False)) == f"/tmp/cvmprobe-{os.getuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert str(runtime_dir(create=False)).startswith("/tmp/cvmprobe-")
