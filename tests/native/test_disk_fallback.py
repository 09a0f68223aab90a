"""What the disk engine does where a container's profile or limit refuses a kernel interface."""

import errno
import os

import pytest
from tests.native.seccomp import NUMBERS, run_refused

UNAVAILABLE = ["EPERM", "ENOSYS", "EACCES", "ENOMEM"]
MEASURE = """
import errno, os, time
from cvmprobe.errors import EngineError
from cvmprobe.native.disk import Disk

def measure(path, engine):
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    disk = Disk(fd=fd, file_bytes=1 << 20, engine=engine, duration_ms=20)
    try:
        disk.arm()
    except EngineError as error:
        return print(error.call, errno.errorcode[error.errno])
    disk.start()
    last = disk.snapshot(time.monotonic_ns() + 20 * 10**9)
    disk.stop()
    facts = disk.facts
    print(facts["engine"], facts.get("fallback"), facts.get("buffers"), last.counters["reads"] > 0, disk.error)

measure(*sys.argv[1:])
"""

pytestmark = pytest.mark.skipif("io_setup" not in NUMBERS, reason="system call numbers of this machine are not listed")


@pytest.fixture
def measure(make_scratch):
    """Runs refusals, then measures with an engine, in a child that has the scratch file open."""
    file = make_scratch(1 << 20)

    def run(refusals, engine):
        path = f"/proc/{os.getpid()}/fd/{file.fd}"
        return run_refused(f"{refusals}\n{MEASURE}", path, engine).strip()

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


def test_both_refused_is_an_error(measure):
    refusals = f"refuse('io_uring_setup', {errno.ENOSYS})\nrefuse('io_setup', {errno.EPERM})"
    assert measure(refusals, "auto") == "io_setup EPERM"


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
    assert printed.endswith(f"False ({call!r}, {errno.EAGAIN})")
