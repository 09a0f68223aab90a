"""Each call that the disk probe makes fails in its turn: a clear error, or degraded and flagged; never a wrong figure.

libfiu fails calls of libc, one call at a time and all from one on; a seccomp filter fails raw system calls for good;
a test build (make asan) has a seam where the results of completed operations are replaced.
"""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.native.seccomp import run_refused

from cvmprobe.native import disk as disk_engine

FIU = Path("/usr/lib/fiu/fiu_posix_preload.so")
ATTEMPT = """
import errno, sys
from pathlib import Path
from tests.native.faulted import attempt

parameters = dict(part.split("=") for part in sys.argv[2:])
"""
SWEEP = (
    ATTEMPT
    + """
import ctypes

fiu = ctypes.CDLL("libfiu.so.0")
DECIDE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint),
)
fiu.fiu_enable_external.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, DECIDE]

def run(point, error, first, last):
    # Fail the calls from first to last; say how it ended and whether as many calls were made.
    seen = 0
    def decide(name, number, info, flags):
        nonlocal seen
        seen += 1
        return int(first < seen <= last)
    callback = DECIDE(decide)
    fiu.fiu_enable_external(point.encode(), 1, error, 0, callback)
    try:
        ended = attempt(Path(sys.argv[1]), **parameters)
    finally:
        fiu.fiu_disable(point.encode())
    return ended, seen > first

fiu.fiu_init(0)
point, error = parameters.pop("point"), getattr(errno, parameters.pop("error"))
assert attempt(Path(sys.argv[1]), **parameters) == "sound"
ours = 5 if point == "posix/mm/mmap" else 12  # later ones are Python's own, which does not survive each
for ever in (False, True)[: 1 + (ours == 12)]:
    for first in range(ours):
        ended, reached = run(point, error, first, 1 << 60 if ever else first + 1)
        if not reached:
            break
        print("ever" if ever else "once", first, ended)
"""
)


@pytest.fixture(scope="module")
def fiu():
    if not FIU.exists():
        pytest.skip("missing libfiu (Debian: apt-get install fiu-utils)")
    return f"{os.environ.get('LD_PRELOAD', '')} {FIU}"


@pytest.mark.parametrize(
    ("point", "error", "parameters"),
    [
        ("posix/io/oc/open", "EMFILE", {}),
        ("posix/io/oc/open", "EACCES", {"mode": "wal", "block_bytes": "4096", "depth": "1"}),
        ("posix/io/rw/pread", "EIO", {"engine": "threads"}),
        ("posix/io/rw/pread", "EIO", {"engine": "sync"}),
        ("posix/io/rw/pwrite", "ENOSPC", {"mode": "randwrite", "engine": "threads"}),
        ("posix/io/rw/pwrite", "EIO", {"mode": "write", "engine": "sync", "fsync": "4"}),
        ("posix/io/rw/read", "EIO", {}),
        ("posix/io/sync/fsync", "EIO", {"mode": "randwrite", "engine": "threads", "fsync": "4"}),
        ("posix/io/sync/fdatasync", "EIO", {"mode": "wal", "block_bytes": "4096", "depth": "1"}),
        ("posix/mm/mmap", "ENOMEM", {}),
    ],
)
def test_no_failing_call_of_libc_bends_a_figure(disk_dir, fiu, point, error, parameters):
    place = disk_dir / "volume"
    place.mkdir()
    asked = [f"{name}={value}" for name, value in {**parameters, "point": point, "error": error}.items()]
    printed = run_refused(SWEEP, str(place), *asked, LD_PRELOAD=fiu).splitlines()
    print("\n".join(printed))
    assert printed, f"{point} was never called"
    assert list(place.iterdir()) == []


ONE = ATTEMPT + "print(attempt(Path(sys.argv[1]), **parameters))"


@pytest.mark.parametrize("error", ["EPERM", "ENOMEM", "EINVAL"])
@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        ("io_uring_setup", {}),
        ("io_uring_register", {}),
        ("io_uring_enter", {}),
        ("io_setup", {"engine": "libaio"}),
        ("io_submit", {"engine": "libaio"}),
        ("io_getevents", {"engine": "libaio"}),
        ("io_destroy", {"engine": "libaio"}),
        ("pread64", {"engine": "sync"}),
        ("pwrite64", {}),
        ("fallocate", {"mode": "wal", "block_bytes": "4096", "depth": "1"}),
        ("fsync", {}),
        ("fdatasync", {"mode": "write", "engine": "threads", "fdatasync": "2"}),
        ("ioctl", {}),
        ("clone3", {"engine": "threads"}),
        ("dup", {}),
        ("fcntl", {}),
        ("statfs", {}),
    ],
)
def test_no_refused_system_call_bends_a_figure(disk_dir, call, parameters, error):
    place = disk_dir / "volume"
    place.mkdir()
    asked = [f"{name}={value}" for name, value in parameters.items()]
    printed = run_refused(f"refuse({call!r}, {getattr(errno, error)})\n{ONE}", str(place), *asked).strip()
    print(f"{call} {error}: {printed}")
    assert printed.startswith(("error: ", "degraded: ", "flagged", "sound"))
    assert list(place.iterdir()) == []


@pytest.fixture(scope="module")
def seam(tmp_path_factory):
    """LD_PRELOAD with the library that replaces every EVERY-th result of an operation by RESULT."""
    if b"cvmprobe_disk_result" not in Path(disk_engine.__file__).read_bytes():
        pytest.skip("a release has no seam: make asan builds one")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("seam") / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True, timeout=60)
    return f"{os.environ.get('LD_PRELOAD', '')} {library}"


@pytest.mark.parametrize("engine", ["io_uring", "libaio", "threads", "sync"])
@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("result", [-errno.EIO, -errno.ENOSPC, 0, 512])
@pytest.mark.parametrize(
    "parameters", [{}, {"mode": "randrw", "fdatasync": "4"}, {"mode": "randrw", "verify": "true"}], ids=str
)
def test_no_failing_operation_bends_a_figure(disk_dir, seam, engine, every, result, parameters):
    place = disk_dir / "volume"
    place.mkdir()
    asked = [f"{name}={value}" for name, value in {**parameters, "engine": engine}.items()]
    printed = run_refused(ONE, str(place), *asked, LD_PRELOAD=seam, EVERY=str(every), RESULT=str(result)).strip()
    assert printed.startswith(("error: ", "flagged"))
    assert list(place.iterdir()) == []
