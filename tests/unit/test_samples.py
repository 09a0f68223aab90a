"""Raw operations on the shelf: bounded, in order, and every loss counted."""

from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.window import ClockPair, Direction, Instance, Probe
from cvmprobe.probes.samples import BLOCK_BYTES, ROW_BYTES, SampleShelf

INSTANCE = Instance("a1", Probe.DISK, Endpoint("n", Role.POD), VolumeTarget("data"), Direction.NONE, 0)
CLOCK = ClockPair(5, 7)


def rows(first: int, count: int) -> bytes:
    return b"".join(number.to_bytes(ROW_BYTES, "little") for number in range(first, first + count))


def test_blocks_are_bounded_and_keep_the_order():
    shelf = SampleShelf(INSTANCE)
    everything = rows(0, 40_000)
    shelf.add(CLOCK, everything, 3)
    blocks = shelf.take()
    assert b"".join(block.rows for block in blocks) == everything
    assert [len(block.rows) for block in blocks] == [BLOCK_BYTES, BLOCK_BYTES, len(everything) - 2 * BLOCK_BYTES]
    assert [block.lost for block in blocks] == [3, 0, 0]
    assert [(block.instance, block.clock) for block in blocks] == [(INSTANCE, CLOCK)] * 3
    assert shelf.take() == ()


def test_a_loss_without_rows_is_told_all_the_same():
    shelf = SampleShelf(INSTANCE)
    shelf.add(CLOCK, b"", 9)
    assert [(block.rows, block.lost) for block in shelf.take()] == [(b"", 9)]


def test_nothing_makes_no_block():
    shelf = SampleShelf(INSTANCE)
    shelf.add(CLOCK, b"", 0)
    assert shelf.take() == ()


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 5)), max_size=30), st.integers(0, 2000))
def test_past_its_bound_the_oldest_go_and_are_counted(additions, kept_bytes):
    shelf = SampleShelf(INSTANCE, kept_bytes)
    for count, lost in additions:
        shelf.add(CLOCK, rows(0, count), lost)
    blocks = shelf.take()
    there = sum(len(block.rows) for block in blocks) // ROW_BYTES
    gone = sum(block.lost for block in blocks)
    assert there + gone == sum(count + lost for count, lost in additions)
    assert sum(len(block.rows) for block in blocks[1:]) <= kept_bytes  # the newest block always stays
