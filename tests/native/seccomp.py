"""Refuse system calls in the present process and its threads for good, as a container's seccomp profile does.

Needs no rights (no_new_privs is set), so call it in a child process: see run_refused().
"""

import ctypes
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_NAMES = (
    "io_setup", "io_destroy", "io_getevents", "io_submit", "pread64", "pwrite64", "fsync", "fdatasync", "fallocate",
    "ioctl", "dup", "fcntl", "statfs", "socket", "sched_getaffinity", "prlimit64", "uname", "readlink", "clock_adjtime",
)  # fmt: skip
_BY_MACHINE = {
    "x86_64": (206, 207, 208, 209, 17, 18, 74, 75, 285, 16, 32, 72, 137, 41, 204, 302, 63, 89, 305),
    "aarch64": (0, 1, 4, 2, 67, 68, 82, 83, 47, 29, 23, 25, 43, 198, 123, 261, 160, 78, 266),
}
NUMBERS = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435} | dict(
    zip(_NAMES, _BY_MACHINE.get(platform.machine(), ()), strict=False)
)

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_NUMBER_AT, _SECOND_ARGUMENT_AT = 0, 24  # in struct seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(call, error, second_argument=None):
    """Let ``call`` (only with this second argument, where one is given) fail with ``error`` from now on."""
    tests = [(_NUMBER_AT, NUMBERS[call])]
    if second_argument is not None:
        tests.append((_SECOND_ARGUMENT_AT, second_argument))
    steps = []
    for i, (at, value) in enumerate(tests):
        past_the_refusal = 2 * (len(tests) - 1 - i) + 1
        steps += [(_LOAD, 0, 0, at), (_EQUAL, 0, past_the_refusal, value)]
    steps += [(_RETURN, 0, 0, _ERRNO | error), (_RETURN, 0, 0, _ALLOW)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


def run_refused(code, *arguments, **variables):
    """Run ``code`` in a child Python that has ``refuse``, arguments and variables; return what it printed."""
    environment = dict(os.environ, **variables, PYTHONPATH=os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)]))
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            f"import sys\nfrom tests.native.seccomp import refuse\n{code}",
            *arguments,
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
