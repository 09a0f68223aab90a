"""What the disk engine does where a profile, a limit or an older kernel refuses, and where a disk fails."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.native.seccomp import NUMBERS, run_refused

FLAGS = [("CQSIZE", 1 << 3), ("COOP_TASKRUN", 1 << 8), ("SINGLE_ISSUER", 1 << 12), ("DEFER_TASKRUN", 1 << 13)]
UNAVAILABLE = ["EPERM", "ENOSYS", "EACCES", "ENOMEM"]
MEASURE = """
import errno, os, time
from cvmprobe.errors import EngineError
from cvmprobe.native.disk import Disk

def measure(path, engine):
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    disk = Disk(fds=[fd], file_bytes=1 << 20, engine=engine, duration_ms=20)
    try:
        disk.arm()
    except EngineError as error:
        return print(error.call, errno.errorcode[error.errno])
    disk.start()
    last = disk.snapshot(time.monotonic_ns() + 20 * 10**9)
    disk.stop()
    facts = disk.facts
    print(facts["engine"], facts.get("fallback"), facts.get("buffers"), last.counters["reads"] > 0, disk.error)
    if engine != "auto":
        print(facts.get("io_uring_flags"), {name: n for name, n in last.counters.items() if n and "errors" in name})

measure(*sys.argv[1:])
"""

pytestmark = pytest.mark.skipif("io_setup" not in NUMBERS, reason="system call numbers of this machine are not listed")


STOP = """
import os, sys, time
from cvmprobe.native.disk import Disk

fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
disk = Disk(fds=[fd], file_bytes=1 << 20, depth=4, engine="threads")
disk.arm()
disk.start()
disk.snapshot(disk.started_ns + 10_000_000)
began = time.monotonic()
disk.stop()
print(time.monotonic() - began < 2, disk.snapshot().counters["abandoned_operations"])
disk.close()
"""


@pytest.fixture
def measure(make_scratch):
    """Runs refusals, then measures with an engine, in a child that has the scratch file open."""
    file = make_scratch(1 << 20)

    def run(refusals, engine, **variables):
        path = f"/proc/{os.getpid()}/fd/{file.fd}"
        return run_refused(f"{refusals}\n{MEASURE}", path, engine, **variables).strip()

    return run


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_libaio_takes_over_and_says_why(measure, name):
    number = getattr(errno, name)
    printed = measure(f"refuse('io_uring_setup', {number})", "auto")
    assert printed == f"libaio no io_uring: io_uring_setup: {name} (errno {number}) None True None"


def test_a_profile_may_refuse_only_the_registering(measure):
    printed = measure(f"refuse('io_uring_register', {errno.EPERM})", "auto")
    assert printed.startswith("libaio no io_uring: io_uring_register: EPERM")


def test_a_named_engine_is_not_replaced(measure):
    assert measure(f"refuse('io_uring_setup', {errno.EPERM})", "io_uring") == "io_uring_setup EPERM"


@pytest.mark.parametrize("name", ["EMFILE", "EINVAL"])
def test_an_errno_that_is_no_refusal_is_not_hidden_by_a_fallback(measure, name):
    assert measure(f"refuse('io_uring_setup', {getattr(errno, name)})", "auto") == f"io_uring_setup {name}"


def test_where_both_are_refused_threads_make_the_calls_and_every_errno_is_kept(measure):
    refusals = f"refuse('io_uring_setup', {errno.ENOSYS})\nrefuse('io_setup', {errno.EPERM})"
    assert measure(refusals, "auto") == (
        "threads no io_uring: io_uring_setup: ENOSYS (errno 38), no libaio: io_setup: EPERM (errno 1) None True None"
    )


def test_libaio_whose_contexts_are_used_up_is_not_to_be_had(measure):
    refusals = f"refuse('io_uring_setup', {errno.EPERM})\nrefuse('io_setup', {errno.EAGAIN})"
    assert "no libaio: io_setup: EAGAIN (errno 11)" in measure(refusals, "auto")


def test_without_any_thread_to_spare_the_worker_makes_the_calls_itself(measure, preload):
    refusals = f"refuse('io_uring_setup', {errno.EPERM})\nrefuse('io_setup', {errno.EPERM})"
    printed = measure(refusals, "auto", LD_PRELOAD=preload, THREADS="1")
    assert printed.startswith("sync no io_uring: ")
    assert printed.endswith("no threads: pthread_create: EAGAIN (errno 11) None True None")


def test_buffers_beyond_the_memory_lock_limit_are_used_unregistered(measure):
    register_buffers = 0
    printed = measure(f"refuse('io_uring_register', {errno.ENOMEM}, {register_buffers})", "auto")
    assert printed == "io_uring None not registered: ENOMEM True None"


def test_a_ring_that_cannot_be_named_by_index_is_named_by_descriptor(measure):
    register_ring_fds = 20
    printed = measure(f"refuse('io_uring_register', {errno.EINVAL}, {register_ring_fds})", "auto")
    assert printed == "io_uring None registered True None"


@pytest.mark.parametrize(("engine", "call"), [("io_uring", "io_uring_enter"), ("libaio", "io_submit")])
def test_a_call_refused_while_it_runs_ends_the_engine(measure, engine, call):
    printed = measure(f"refuse({call!r}, {errno.EAGAIN})", engine)
    assert printed.splitlines()[0].endswith(f"False ({call!r}, {errno.EAGAIN})")


@pytest.fixture(scope="module")
def preload(tmp_path_factory):
    """LD_PRELOAD with the library that answers as another kernel would, before what is preloaded already."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("preload") / "older_kernel.so"
    source = Path(__file__).with_name("older_kernel.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    return f"{os.environ.get('LD_PRELOAD', '')} {library}"


@pytest.mark.parametrize("count", range(len(FLAGS) + 1))
def test_setup_flags_an_older_kernel_does_not_know_are_given_up(measure, preload, count):
    known = dict(FLAGS[:count])
    printed = measure("", "io_uring", LD_PRELOAD=preload, KNOWN_SETUP_FLAGS=str(sum(known.values())))
    assert printed.splitlines() == ["io_uring None registered True None", f"{' '.join(known)} {{}}"]


def test_an_io_uring_whose_waits_cannot_time_out_is_not_used(measure, preload):
    extended_arguments = 1 << 8
    printed = measure("", "auto", LD_PRELOAD=preload, HIDDEN_FEATURES=str(extended_arguments))
    assert printed.startswith("libaio no io_uring: io_uring_setup: ENOSYS")


def test_stop_does_not_wait_for_a_pool_whose_calls_do_not_return(make_scratch, preload):
    file = make_scratch(1 << 20)
    printed = run_refused(STOP, f"/proc/{os.getpid()}/fd/{file.fd}", LD_PRELOAD=preload, STALL_MS="4000")
    assert printed == "True 4\n"


@pytest.mark.parametrize(
    ("result", "kind", "kept"),
    [
        (-errno.EIO, "io_errors", errno.EIO),
        (-errno.ENOSPC, "space_errors", errno.ENOSPC),
        (-errno.ETIMEDOUT, "other_errors", errno.ETIMEDOUT),
    ],
)
def test_failed_operations_are_counted_by_kind_and_end_the_engine(measure, preload, result, kind, kept):
    printed = measure("", "libaio", LD_PRELOAD=preload, EVENT_RESULT=str(result))
    first, second = printed.splitlines()
    assert first == f"libaio None None False ('pread', {kept})"
    assert second.startswith(f"None {{'{kind}': 6")
