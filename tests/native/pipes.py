"""A file whose reads end when a test says so."""

import fcntl
import os


def packet_pipe() -> tuple[int, int]:
    """Both ends of a pipe that passes for a file with direct I/O: one read takes one write."""
    reading, writing = os.pipe2(os.O_DIRECT)
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_DIRECT)
    return reading, writing
