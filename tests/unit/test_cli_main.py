"""The command as a whole: help, version, one line per error and its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import typer

import cvmprobe
from cvmprobe import __version__, errors
from cvmprobe.cli import app as application
from cvmprobe.cli import program
from cvmprobe.cli.__main__ import kubectl, main
from cvmprobe.cli.endpoint import Connection, process_start, runtime_dir
from cvmprobe.suites import suite_names


@pytest.fixture(autouse=True)
def no_collector(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def failing(monkeypatch):
    """Put a verb ``fail`` that raises in place of all others."""

    def replace(error: BaseException) -> None:
        app = typer.Typer()

        @app.command("fail")
        def fail() -> None:
            raise error

        @app.command("other")
        def other() -> None: ...

        monkeypatch.setattr(application, "app", app)

    return replace


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("cvmprobe: ")
    return captured.err.removeprefix("cvmprobe: ").strip()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cvmprobe {__version__}\n"


_VERBS = "run,watch,compare,get nodes,get probes,get windows,get runs,snapshot export,config explain"


@pytest.mark.parametrize("verb", ["", "get", "snapshot", "config", *_VERBS.split(",")])
def test_help_tells_a_newcomer_what_to_type(capsys, verb):
    assert main([*verb.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage: cvmprobe" in out
    if verb not in ("get", "snapshot", "config"):
        assert f"cvmprobe {verb}".strip() in out.split("Usage:")[1].split("\n", 1)[1]


@pytest.mark.parametrize("verb", ["run", "compare", "watch"])
def test_help_is_broken_by_the_terminal_alone(capsys, monkeypatch, verb):
    """A line that the source broke is shorter than its neighbours for no reason that a reader sees."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 1_000)
    monkeypatch.setenv("COLUMNS", "1000")
    assert main([verb, "--help"]) == 0
    prose = [line.strip() for line in capsys.readouterr().out.split("╭")[0].splitlines() if line.strip()]
    assert all(line[0].isupper() or line.startswith("cvmprobe ") for line in prose)


def test_help_names_the_suites(capsys):
    main(["run", "--help"])
    assert "Suites: " + ", ".join(suite_names()) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "No such command 'rum'"),
        (["run", "--lokal"], "No such option: --lokal"),
        (["run", "quick", "--local", "--scale", "much"], "Invalid value for '--scale'"),
        (["run", "quick", "--local", "--scale", "0"], "scale must be above 0"),
        (["run", "quick", "--local", "--scale", "nan"], "scale must be above 0"),
        (["run", "slow", "--local"], "there is no suite 'slow'; there are: compute, constellation-v1.3"),
        (["run", "--local", "--collector", "a:1"], "exclude each other"),
        (["run", "--local", "--context", "c"], "exclude each other"),
        (["run", "--cluster", "--keep"], "--keep and --volume belong to --local"),
        (["run", "--keep"], "--keep and --volume belong to --local"),
        (["run", "--local", "--volume", "none"], "--volume none is not a directory"),
        (["run", "--local", "-f", "none/x.zip"], "cannot write none/x.zip: none is not a directory"),
        (["get", "windows", "--since", "5 minutes"], "--since '5 minutes' is not a time span; write it as"),
        (["get", "nodes", "-o", "xml"], "Invalid value for '--output-format' / '-o': 'xml' is not one of"),
        (["get", "nodes", "--ca-file", "x"], "belong to --collector"),
        (["get", "nodes", "--collector", "nowhere"], "--collector 'nowhere' is not HOST:PORT"),
        (["get", "nodes", "--collector", "a:1"], "also needs --ca-file and --token-file"),
        (["get", "nodes", "--collector", "a:1", "--ca-file", "x", "--token-file", "y"], "cannot read x: No such file"),
        (["snapshot", "export", "--run", "x", "--since", "5m"], "exclude each other"),
        (["config", "explain", "agnet"], "Invalid value for"),
        (["config", "explain", "agent", "--config", "none"], "cannot read configuration file none: No such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in one_line(capsys)


@pytest.mark.parametrize("verb", ["get nodes", "get runs", "watch", "run quick", "snapshot export"])
def test_without_a_collector_it_says_how_to_get_one(capsys, verb):
    assert main(verb.split()) == 1
    assert "no local run is alive, and there is no kubeconfig; start one with 'cvmprobe run" in one_line(capsys)


@pytest.mark.parametrize("verb", ["get nodes", "get runs", "watch", "watch --agent a", "run quick", "snapshot export"])
def test_a_kubeconfig_that_is_not_there_is_named(capsys, monkeypatch, verb):
    monkeypatch.setenv("KUBECONFIG", "not-there")
    assert main(verb.split()) == 2
    assert "not-there cannot be used: Config not found: not-there; name another with KUBECONFIG" in one_line(capsys)


def test_kubectl_prefers_the_cluster_to_a_living_local_run(capsys, monkeypatch):
    living = Connection(address="h:1", server_name="h", ca_pem="", token="", pid=os.getpid())
    living = msgspec.structs.replace(living, started=process_start(os.getpid()))
    living.write(runtime_dir(create=True) / "endpoint.json")
    monkeypatch.setenv("KUBECONFIG", "not-there")
    monkeypatch.setattr(sys, "argv", ["kubectl-cvmprobe", "get", "nodes"])
    assert kubectl() == 2
    assert "not-there cannot be used" in one_line(capsys)


def test_kubectl_calls_it_by_its_own_name(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kubectl-cvmprobe", "get", "nods"])
    assert kubectl() == 2
    assert "No such command 'nods'. Did you mean 'nodes'? (see 'kubectl cvmprobe get --help')" in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("a\nb"), 2),
        (errors.PartialError("a\nb"), 3),
        (errors.UnreachableError("a\nb"), 1),
        (OSError("a\nb"), 1),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(capsys, failing, error, code):
    failing(error)
    assert main(["fail"]) == code
    assert one_line(capsys) == "a b"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("duckdb", "pip install 'cvmprobe[collector]'"),
        ("rich.table", "pip install 'cvmprobe[cli]'"),
        ("kubernetes.aio", "pip install 'cvmprobe[cli]'"),
        ("psutil", "pip install 'cvmprobe[agent]'"),
        ("cvmprobe.native.engine", "needs the native engines"),
        ("whatever", "broken installation"),
    ],
)
def test_a_missing_extra_is_named(capsys, failing, module, message):
    failing(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert main(["fail"]) == 1
    assert message in one_line(capsys)


def test_ctrl_c_is_130_without_a_word(capsys, failing):
    failing(KeyboardInterrupt())
    assert main(["fail"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_hears_nothing(capfd, failing, monkeypatch):
    failing(BrokenPipeError())
    kept = os.dup(1)
    try:
        assert main(["fail"]) == 1
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert capfd.readouterr().err == ""


def test_a_bug_keeps_its_traceback(failing):
    failing(TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        main(["fail"])


def test_asking_a_collector_needs_no_database_and_no_engine():
    heavy = "{'duckdb', 'cryptography', 'psutil', 'kubernetes', 'aiohttp', 'cvmprobe.probes', 'cvmprobe.cli.local'}"
    code = f"import sys, cvmprobe.cli.app; sys.exit(str({heavy} & set(sys.modules) or ''))"
    environment = {**os.environ, "PYTHONPATH": str(Path(cvmprobe.__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""


def test_the_command_starts_where_there_is_no_sighup():
    code = "import signal; del signal.SIGHUP; import cvmprobe.cli.app"
    environment = {**os.environ, "PYTHONPATH": str(Path(cvmprobe.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize(
    ("verb", "lacking", "message"),
    [
        ("agent", "cvmprobe.native.engine", "needs the native engines"),
        ("collector", "duckdb", "pip install 'cvmprobe[collector]'"),
        ("run --local", "cryptography", "pip install 'cvmprobe[collector]'"),
        ("run --local", "psutil", "pip install 'cvmprobe[agent]'"),
    ],
)
def test_a_program_that_cannot_run_here_says_so(capsys, monkeypatch, verb, lacking, message):
    monkeypatch.setattr(program, "find_spec", lambda module: None if module == lacking else "there")
    assert main(verb.split()) == 1
    assert message in one_line(capsys)


def test_settings_are_explained_before_any_is_set(capsys):
    assert main(["config", "explain", "agent", "-o", "json"]) == 0
    settings = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert settings["agent.collector"]["source"] == "required"
    assert settings["agent.drain_ms"]["value"] == 5_000
    assert all(row["doc"] for row in settings.values())
    assert main(["config", "explain", "collector"]) == 0
    assert "budgets.network_bytes_per_day" in capsys.readouterr().out


def test_settings_of_all_programs_are_explained_where_none_is_named(capsys):
    assert main(["config", "explain", "-o", "json"]) == 0
    names = {row["name"].partition(".")[0] for row in json.loads(capsys.readouterr().out)}
    assert names == {"agent", "collector"}
