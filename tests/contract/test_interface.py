"""The committed wire code and its lock are what proto/ says, and each rpc says what a repeat does."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cvmprobe.v1 import ingest_pb2, ingest_pb2_grpc, probe_pb2
from cvmprobe.wire.identity import METHOD_ACCESS

REPOSITORY = Path(__file__).parents[2]
PROTO = REPOSITORY / "proto" / "cvmprobe" / "v1"


def test_generated_code_and_lock_are_fresh(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    subprocess.run([sys.executable, "proto/generate.py", str(tmp_path)], cwd=REPOSITORY, check=True, timeout=120)
    generated = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(generated) > 9
    committed = {path: (REPOSITORY / path).read_bytes() for path in generated if (REPOSITORY / path).exists()}
    stale = sorted(str(path) for path in generated if generated[path] != committed.get(path))
    assert not stale, f"run make proto: {', '.join(stale)}"


def test_nothing_generated_is_left_over_from_a_removed_file():
    package = REPOSITORY / "agent" / "cvmprobe" / "v1"
    stems = {path.stem for path in PROTO.glob("*.proto")}
    left = [p.name for p in package.glob("*_pb2*") if p.name.split("_pb2")[0] not in stems]
    assert not left


def test_the_runtimes_asked_for_are_those_the_code_was_generated_for():
    dependencies = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"grpcio>={ingest_pb2_grpc.GRPC_GENERATED_VERSION}" in dependencies
    generated = (REPOSITORY / "agent" / "cvmprobe" / "v1" / "ingest_pb2.py").read_text()
    protobuf = ".".join(re.search(r"Domain\.PUBLIC,\s+(\d+),\s+(\d+),\s+(\d+),", generated).groups())
    assert f"protobuf>={protobuf}" in dependencies


def test_every_rpc_says_whether_a_repeat_is_safe():
    for source in PROTO.glob("*.proto"):
        for comment, name in re.findall(r"((?:  //[^\n]*\n)+)  rpc (\w+)", source.read_text()):
            assert re.search(r"repeat is (safe|NOT safe):", comment.replace("\n  //", "")), name


def test_every_enum_begins_with_unspecified():
    for file in (ingest_pb2.DESCRIPTOR, probe_pb2.DESCRIPTOR, *ingest_pb2.DESCRIPTOR.dependencies):
        for enum in file.enum_types_by_name.values():
            assert enum.values_by_number[0].name.endswith("_UNSPECIFIED"), enum.full_name


def test_access_table_names_every_rpc_and_nothing_else():
    services = [*ingest_pb2.DESCRIPTOR.services_by_name.values(), *probe_pb2.DESCRIPTOR.services_by_name.values()]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    ours = {method for method in METHOD_ACCESS if method.startswith("/cvmprobe.")}
    assert ours == methods
