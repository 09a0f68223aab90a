"""The doctor on this machine, as a person and as a program ask for it."""

import json
import subprocess
import sys

import pytest

from cvmprobe.errors import UsageError
from cvmprobe.node.doctor import examine, main, named_volumes
from cvmprobe.probes.facts.checkup import checkup

SOUND_OR_NOT = (0, 1)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return examine({"work": tmp_path_factory.mktemp("work")})


def test_the_clock_was_tried(seen):
    half, most = int(seen.value("timer_late_p50_ns")), int(seen.value("timer_late_p99_ns"))
    assert 0 < half <= most
    assert 0 <= float(seen.value("timer_late_share")) <= 1
    assert len({fact.name for fact in seen.facts}) == len(seen.facts)


def test_a_volume_is_tried_and_left_as_it_was(tmp_path):
    (tmp_path / "mine").write_text("kept")
    found = {fact.name: fact.value for fact in checkup({"v": tmp_path})}
    assert found["volume_v_direct_io"].startswith(("available", "refused: "))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_directory_that_may_not_be_written_is_unknown(tmp_path):
    found = {fact.name: fact for fact in checkup({"v": tmp_path / "gone"})}
    assert found["volume_v_direct_io"].value is None
    assert "No such file" in found["volume_v_direct_io"].source


def test_the_program_prints_a_record_and_exits_by_its_verdict(tmp_path, capsys):
    code = main(["--volume", str(tmp_path), "-o", "json"])
    record = json.loads(capsys.readouterr().out)
    assert code == (0 if record["sound"] else 1)
    assert f"volume_{tmp_path.name}_filesystem" in record["environment"]["facts"]


def test_the_program_prints_a_page(capsys):
    assert main([]) in SOUND_OR_NOT
    text = capsys.readouterr().out
    for title in ("Node", "Trusted execution", "Clock", "Engines", "Network", "Disk", "Interference"):
        assert f"\n{title}\n" in text
    assert "Measuring is " in text.splitlines()[-1]


def test_a_volume_that_is_not_there_is_wrong_usage(tmp_path, capsys):
    assert main(["--volume", str(tmp_path / "gone")]) == 2
    assert "there is no such directory" in capsys.readouterr().err


def test_a_volume_behind_a_closed_directory_is_wrong_usage_too(monkeypatch, tmp_path, capsys):
    def closed(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.is_dir", closed)
    assert main(["--volume", str(tmp_path)]) == 2
    assert "Permission denied: run as a user who may go there" in capsys.readouterr().err


def test_two_volumes_of_one_name_are_told_apart(tmp_path):
    for name in ("a/data", "b/data"):
        (tmp_path / name).mkdir(parents=True)
    assert len(named_volumes([tmp_path / "a/data", tmp_path / "b/data"])) == 2
    with pytest.raises(UsageError):
        named_volumes([tmp_path / "c"])


def test_it_needs_no_more_than_the_agent_does():
    program = "import sys, cvmprobe.node.doctor; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"typer", "rich", "yaml", "kubernetes", "duckdb", "grpc"} & set(done.stdout.split())
