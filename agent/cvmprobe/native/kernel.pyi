"""What this kernel lets the present process use, tried out, and what it says of its clock."""

def try_io_uring() -> tuple[str, int] | None:
    """Return None where the engines can use io_uring, else (call, errno) of what was refused."""

def try_libaio() -> tuple[str, int] | None:
    """Return None where the engines can use libaio, else (call, errno) of what was refused."""

def clock_discipline() -> tuple[bool, float, int]:
    """Return (synchronized, frequency_ppm, maximum_error_us) of the wall clock (adjtimex). Raises OSError."""
