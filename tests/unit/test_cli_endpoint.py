"""Finding the collector: flags, the local run's file, its process and who may have written it, the kubeconfig."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvmprobe.cli.cluster import ClusterWay
from cvmprobe.cli.endpoint import Connection, given_connection, local_connection, process_start, runtime_dir
from cvmprobe.cli.find import Where, find
from cvmprobe.errors import UnreachableError, UsageError
from cvmprobe.wire.identity import Access

PEM = "-----BEGIN CERTIFICATE-----"


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return runtime_dir(create=True)


def found(**flags):
    return find(Where(**flags), Access.VIEWER)


def living_run(runtime):
    written = connection(os.getpid(), process_start(os.getpid()))
    written.write(runtime / "endpoint.json")
    return written


def connection(pid=0, started=""):
    return Connection(address="127.0.0.1:1", server_name="localhost", ca_pem="pem", token="t", pid=pid, started=started)


def test_the_file_of_a_living_run_is_found_and_is_ours_alone(runtime):
    written = living_run(runtime)
    assert local_connection() == written
    assert (runtime / "endpoint.json").stat().st_mode & 0o777 == 0o600
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_a_dead_process_is_recognised(runtime):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(child.pid)
    connection(child.pid, started).write(runtime / "endpoint.json")
    assert local_connection().pid == child.pid
    child.communicate(b"\n")
    with pytest.raises(UnreachableError, match=rf"the local run \(process {child.pid}\) has ended$"):
        local_connection()


def test_a_later_process_of_the_same_number_is_no_run(runtime):
    connection(os.getpid(), "1").write(runtime / "endpoint.json")
    with pytest.raises(UnreachableError, match="has ended"):
        local_connection()


def test_a_broken_file_is_named(runtime):
    (runtime / "endpoint.json").write_text("{")
    with pytest.raises(UnreachableError, match=r"endpoint\.json cannot be read .*; remove it"):
        local_connection()


def test_a_directory_others_could_have_made_is_refused(runtime):
    runtime.chmod(0o755)
    with pytest.raises(UsageError, match="is not a directory of yours with mode 0700"):
        local_connection()
    runtime.rmdir()
    runtime.symlink_to("/tmp")
    with pytest.raises(UsageError, match="is not a directory of yours"):
        runtime_dir(create=True)


def test_a_runtime_directory_that_cannot_be_made_says_what_to_set(monkeypatch, runtime):
    runtime.rmdir()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match="cannot be made: Read-only file system; set XDG_RUNTIME_DIR"):
        runtime_dir(create=True)


def test_looking_makes_nothing(tmp_path, runtime):
    runtime.rmdir()
    with pytest.raises(UnreachableError):
        local_connection()
    assert list(tmp_path.iterdir()) == []


def test_flags_name_another_collector(tmp_path):
    (tmp_path / "ca").write_text(PEM)
    (tmp_path / "token").write_text("secret\n")
    told = given_connection("[::1]:7443", tmp_path / "ca", tmp_path / "token")
    assert (told.address, told.server_name, told.ca_pem, told.token) == ("[::1]:7443", "::1", PEM, "secret")


def test_a_ca_file_without_a_certificate_is_named(tmp_path):
    for name in ("ca", "token"):
        (tmp_path / name).write_text("secret\n")
    with pytest.raises(UsageError, match=r"^--ca-file .*/ca holds no certificate; give the PEM file"):
        given_connection("localhost:7443", tmp_path / "ca", tmp_path / "token")


def test_the_runtime_directory_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    for strange in (str(tmp_path / "none"), "/proc/1/cwd/none"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", strange)
        assert str(runtime_dir(create=False)) == f"/tmp/cvmprobe-{os.getuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert str(runtime_dir(create=False)).startswith("/tmp/cvmprobe-")


def test_flags_go_before_a_local_run_and_a_local_run_before_the_kubeconfig(runtime, tmp_path, monkeypatch, capsys):
    for name, text in (("ca", PEM), ("token", "token")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert isinstance(found(), ClusterWay)
    local = living_run(runtime)
    assert capsys.readouterr().err == ""
    assert found() == local
    said = f"asking the local run (process {os.getpid()}); --cluster asks the one in the kubeconfig's cluster\n"
    assert capsys.readouterr().err == said
    told = found(collector="h:1", ca_file=tmp_path / "ca", token_file=tmp_path / "token")
    assert told.address == "h:1"
    assert capsys.readouterr().err == ""


def test_a_flag_says_which_is_meant_where_both_could_be(runtime, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    local = living_run(runtime)
    assert found(local=True) == local
    assert capsys.readouterr().err == ""
    assert found(local=True, prefers_cluster=True) == local
    for flags in ({"cluster": True}, {"context": "c"}, {"namespace": "n"}, {"kubeconfig": tmp_path / "k"}):
        assert isinstance(found(**flags), ClusterWay)
    assert isinstance(found(prefers_cluster=True), ClusterWay)
    monkeypatch.delenv("KUBECONFIG")
    assert found(prefers_cluster=True) == local
    assert capsys.readouterr().err == ""


def test_a_kubeconfig_in_its_usual_place_is_found(tmp_path):
    with pytest.raises(UnreachableError):
        found()
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").touch()
    assert isinstance(found(), ClusterWay)


@pytest.mark.parametrize(
    "flags",
    [{"local": True, "cluster": True}, {"local": True, "context": "c"}, {"collector": "a:1", "namespace": "n"}],
)
def test_flags_that_contradict_each_other_are_refused(flags):
    with pytest.raises(UsageError, match="exclude each other"):
        found(**flags)


def test_without_any_all_three_ways_are_said(tmp_path, monkeypatch):
    with pytest.raises(UnreachableError) as nowhere:
        found()
    assert str(nowhere.value) == (
        "no local run is alive, and there is no kubeconfig; start one with 'cvmprobe run quick --local --keep', or "
        "name a cluster that has cvmprobe with KUBECONFIG or --kubeconfig, or give --collector, --ca-file and "
        "--token-file"
    )
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(UnreachableError, match=r"^no local run is alive; start one with 'cvmprobe run quick"):
        found(local=True)
