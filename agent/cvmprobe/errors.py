"""What can go wrong, in words a person can act on.

    ProbeError                 anything cvmprobe refuses or fails to do
    ├── UsageError             the request itself is wrong                       exit 2
    │   └── ConfigError        a setting is wrong: names its source and value
    ├── RefusedError           right in itself, but not as things stand          exit 1
    ├── EngineError            a native engine or the kernel refused             exit 1
    ├── UnsoundError           the figure would be wrong, so it is not taken     exit 1
    ├── WireError              the other program did not do its part             exit 1
    │   ├── UnreachableError   nobody answers there
    │   └── DeniedError        it answers, and says no
    ├── StoreError             stored data or a snapshot cannot be used          exit 1
    └── PartialError           some of the result is there, some is not          exit 3

Every message names what failed, the value, and what to do. The command line
prints it as one line and exits with ``exit_code``.
"""

import os

__all__ = [
    "ConfigError",
    "DeniedError",
    "EngineError",
    "PartialError",
    "ProbeError",
    "RefusedError",
    "StoreError",
    "UnreachableError",
    "UnsoundError",
    "UsageError",
    "WireError",
]


class ProbeError(Exception):
    """Root of the tree; its text is fit to be shown to a person as it is."""

    exit_code = 1


class UsageError(ProbeError):
    """The request itself is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is wrong."""


class RefusedError(ProbeError):
    """The request is right in itself, and is refused as things stand: a budget, another run, nobody there."""


class EngineError(ProbeError):
    """A system call of a native engine failed.

    ``call`` is the system call as it is named in the manual, ``errno`` its positive error
    number (0 where the failure is not the kernel's), ``detail`` what was being done.
    """

    def __init__(self, call: str, errno: int, detail: str) -> None:
        reason = f"{os.strerror(errno)} (errno {errno})" if errno else "failed"
        super().__init__(f"{detail}: {call}: {reason}")
        self.call = call
        self.errno = errno
        self.detail = detail


class UnsoundError(ProbeError):
    """The figure would be wrong, so it is not taken."""


class WireError(ProbeError):
    """The other program did not do its part."""


class UnreachableError(WireError):
    """Nobody answers at that address."""


class DeniedError(WireError):
    """The other program answered, and refused."""


class StoreError(ProbeError):
    """Stored data or a snapshot cannot be used."""


class PartialError(ProbeError):
    """Some of the result is there, some is not."""

    exit_code = 3
