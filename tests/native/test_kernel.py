"""What the kernel lets us use is found by trying, whichever call is refused; and trying leaves nothing behind."""

import errno

import pytest
from tests.native.leaks import assert_no_leak
from tests.native.seccomp import NUMBERS, run_refused

from cvmprobe.native import kernel
from cvmprobe.probes.facts import ethtool, netlink
from cvmprobe.probes.facts.engines import engines

TRY = "from cvmprobe.native import kernel\nprint(kernel.try_io_uring(), kernel.try_libaio())"

known = pytest.mark.skipif("io_setup" not in NUMBERS, reason="system call numbers of this machine are not listed")


@known
@pytest.mark.parametrize("call", ["io_uring_setup", "io_uring_register", "io_uring_enter"])
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_each_call_of_io_uring_may_be_the_one_refused(call, error):
    if kernel.try_io_uring() is not None:
        pytest.skip(f"io_uring is refused here already: {kernel.try_io_uring()}")
    assert run_refused(f"refuse({call!r}, {error})\n{TRY}").startswith(f"({call!r}, {error})")


@known
def test_libaio_may_be_refused():
    assert run_refused(f"refuse('io_setup', {errno.EPERM})\n{TRY}").endswith(f"('io_setup', {errno.EPERM})\n")


@known
def test_a_refusal_is_told_with_the_name_of_its_errno():
    facts = "from cvmprobe.probes.facts.engines import engines\nprint([f.value for f in engines()][0])"
    told = run_refused(f"refuse('io_uring_setup', {errno.EPERM})\n{facts}")
    assert told.strip() == "refused: io_uring_setup: EPERM (errno 1)"


LOOK = """
from pathlib import Path
import cvmprobe.native.recording, psutil
from cvmprobe.probes.environment import environment
environment(volumes={"v": Path("/tmp")})
refuse(sys.argv[1], int(sys.argv[2]))
found = {fact.name: fact for fact in environment(volumes={"v": Path("/tmp")}).facts}
print(*(name for name in sys.argv[3:] if found[name].value is None and found[name].source))
"""


@known
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
@pytest.mark.parametrize(
    ("call", "lost"),
    [
        ("socket", ["default_route", "cni", "cni_encryption"]),
        ("sched_getaffinity", ["cpus_allowed"]),
        ("prlimit64", ["memory_lock_limit"]),
        ("uname", ["kernel", "architecture"]),
        ("readlink", ["volume_v_stack"]),
        ("clock_adjtime", ["clock_discipline"]),
    ],
)
def test_a_call_that_is_refused_leaves_its_facts_unknown_and_stops_no_other(call, lost, error):
    assert run_refused(LOOK, call, str(error), *lost).split() == lost


def test_the_wall_clock_is_asked_and_not_set():
    synchronized, ppm, error_us = kernel.clock_discipline()
    assert synchronized in (True, False)
    assert -500 <= ppm <= 500
    assert error_us >= 0


def test_trying_and_asking_leave_nothing_behind():
    def ask():
        list(engines())
        netlink.dump_links()
        netlink.dump_routes()
        ethtool.offloads("lo")

    assert_no_leak(ask)


def test_a_device_that_is_not_there_is_an_error_not_an_empty_answer():
    for ask in (ethtool.driver, ethtool.offloads):
        with pytest.raises(OSError, match="No such device"):
            ask("nothing0")
