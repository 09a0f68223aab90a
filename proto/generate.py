# ruff: noqa: INP001 -- a script, in no package
"""Generate cvmprobe.v1 and the interface's lock from proto/: ``python proto/generate.py [root]``.

Writes <root>/agent/cvmprobe/v1/ and <root>/proto/lock.txtpb; root is the repository unless it is given. Needs
grpcio-tools and mypy-protobuf in the versions of constraints.txt: the freshness test compares bytes.
"""

import importlib.resources
import os
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2, text_format
from grpc_tools import protoc

REPOSITORY = Path(__file__).resolve().parent.parent
LOCK_HEADER = "# The whole interface, as buf breaking and reviewers read it. Written by proto/generate.py.\n"


def generate(root: Path) -> None:
    """Write the generated package and the lock below ``root``; raises SystemExit when protoc refuses."""
    sources = sorted(str(path.relative_to(REPOSITORY / "proto")) for path in (REPOSITORY / "proto").rglob("*.proto"))
    package = root / "agent"
    package.mkdir(parents=True, exist_ok=True)
    (root / "proto").mkdir(parents=True, exist_ok=True)
    # The plugins of mypy-protobuf lie beside the interpreter, in a virtual environment that need not be active.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.NamedTemporaryFile() as descriptors:
        status = protoc.main(
            [
                "protoc",
                f"-I{REPOSITORY / 'proto'}",
                f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
                f"--python_out={package}",
                f"--grpc_python_out={package}",
                f"--mypy_out=quiet:{package}",
                f"--mypy_grpc_out=quiet:{package}",
                f"--descriptor_set_out={descriptors.name}",
                *sources,
            ]
        )
        if status != 0:
            raise SystemExit(f"protoc failed with status {status} on {', '.join(sources)}")
        interface = descriptor_pb2.FileDescriptorSet.FromString(Path(descriptors.name).read_bytes())
    (root / "proto" / "lock.txtpb").write_text(LOCK_HEADER + text_format.MessageToString(interface))


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else REPOSITORY)
