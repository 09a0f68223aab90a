"""The house stays in order: every room says what is in it, and compiled code says what it offers."""

import importlib
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import TypeVar

import pytest

import cvmprobe

ROOT = Path(__file__).resolve().parents[2]
NATIVE = sorted(path.stem for path in (ROOT / "native").glob("*/*.pyx"))


ROOMS = {
    "engine": set(),
    "disk": {"engine"},
    "node": {"engine"},
    "socket": {"engine"},
    "session": {"socket", "engine"},
    "tcp": {"session", "socket", "engine"},
    "udp": {"session", "socket", "engine"},
    "responder": {"tcp", "udp", "node", "session", "socket", "engine"},
}
"""The rooms of native/, and which others each may use."""


def modules():
    found = pkgutil.walk_packages(cvmprobe.__path__, "cvmprobe.")
    skipped = ("cvmprobe.v1.", "cvmprobe.native.")
    return sorted(
        module.name
        for module in found
        if not module.name.startswith(skipped) and not module.ispkg and not module.name.endswith("__main__")
    )


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


@pytest.mark.parametrize("name", modules())
def test_a_module_offers_exactly_what_its_all_says(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is for"
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name and not isinstance(value, TypeVar)
    }
    offered = set(module.__all__)
    assert own <= offered, f"public, but not offered: {sorted(own - offered)}"
    assert all(hasattr(module, key) for key in offered)


def test_every_compiled_module_has_a_stub_and_the_other_way_round():
    assert sorted(path.stem for path in (ROOT / "agent/cvmprobe/native").glob("*.pyi")) == NATIVE


@pytest.mark.parametrize("name", NATIVE)
def test_a_stub_names_what_the_compiled_module_offers(name):
    module = importlib.import_module(f"cvmprobe.native.{name}")
    stub = (ROOT / f"agent/cvmprobe/native/{name}.pyi").read_text()
    declared = set(re.findall(r"^(?:class|def) ([A-Za-z]\w*)|^([A-Z][A-Z_0-9]*)\s*:", stub, re.MULTILINE))
    declared = {kind or constant for kind, constant in declared}
    offered = {
        key
        for key, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and key[0] != "_"
    }
    missing = {key for key in declared if not hasattr(module, key)}
    assert not missing, f"declared, but not there: {sorted(missing)}"
    assert offered <= declared, f"there, but not declared: {sorted(offered - declared)}"


def test_a_native_room_uses_only_the_rooms_below_it():
    files = [path for path in (ROOT / "native").rglob("*") if path.is_file()]
    home = {path.stem: path.parent.name for path in files}
    assert {path.parent for path in files} == {ROOT / "native" / room for room in ROOMS}
    for path in files:
        text = path.read_text()
        used = set(re.findall(r'(?:#include|extern from) "(\w+)/', text))
        used |= {home[name] for name in re.findall(r"\bcvmprobe\.native\.(\w+)", text) if name in home}
        above = used - ROOMS[path.parent.name] - {path.parent.name}
        assert not above, f"{path.relative_to(ROOT)} reaches up into {sorted(above)}"


def test_no_file_has_outgrown_its_room():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked("*.py", "native/*")
        if "/v1/" not in str(path) and (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_what_is_silenced_says_why_on_its_line():
    silenced = re.compile(r"# (?:ruff: )?noqa|# type: ignore\[")
    reasoned = re.compile(r"# (?:ruff: )?noqa: [A-Z0-9, ]+ --? \w|# type: ignore\[[\w-]+\] +# \w")
    bare = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in tracked("*.py", "*.pyi")
        if "/v1/" not in str(path)
        for line in path.read_text().splitlines()
        if silenced.search(line) and not reasoned.search(line) and path.name != "test_house.py"
    ]
    assert not bare


def test_a_strangers_clone_needs_nothing_beside_it():
    naming = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.name != "run" and path.suffix != ".zip" and re.search(rb"\.\./shared", path.read_bytes())
    ]
    assert [path for path in naming if "test_house" not in path] == []
