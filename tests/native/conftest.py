"""What native tests stand on: a place on a real disk, and a responder."""

import pytest

from cvmprobe.errors import ProbeError
from cvmprobe.native.responder import Responder
from cvmprobe.probes import scratch

MIB = 1 << 20


@pytest.fixture
def disk_dir(tmp_path):
    """A directory where direct I/O and FIEMAP work."""
    try:
        scratch.prepare(tmp_path, MIB, max_bytes=MIB).close()
    except ProbeError as refusal:
        pytest.skip(f"pytest's temporary directory is not on a disk (see --basetemp): {refusal}")
    return tmp_path


@pytest.fixture
def make_scratch(disk_dir):
    """Makes scratch files that end with the test."""
    made = []

    def make(size_bytes=4 * MIB):
        made.append(scratch.prepare(disk_dir, size_bytes, max_bytes=size_bytes))
        return made[-1]

    yield make
    for file in made:
        file.close()


@pytest.fixture
def responder():
    """A responder that admits nobody yet."""
    found = Responder("127.0.0.1")
    yield found
    found.close()
