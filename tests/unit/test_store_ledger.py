"""The ledger of a stream against a set of numbers: every count is the count of a set."""

from hypothesis import given
from hypothesis import strategies as st

from cvmprobe.model.delivery import Gap, StreamKey
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.store.ledger import Ledger

STREAM = StreamKey("local", Endpoint("local-a", Role.POD), "boot", "start")
seqs = st.integers(1, 12)
stored = st.lists(seqs, min_size=1, max_size=4)
lost = st.tuples(seqs, seqs).map(lambda ends: (min(ends), max(ends)))
steps = st.lists(st.one_of(stored.map(lambda s: ("stored", s)), lost.map(lambda r: ("lost", r))), max_size=8)


def numbers(ranges):
    return [seq for first, last in ranges for seq in range(first, last + 1)]


@given(steps)
def test_counts_are_those_of_sets(history):
    ledger, here, gone = Ledger(), set(), set()
    for kind, what in history:
        if kind == "stored":
            ledger, here = ledger.with_stored(what), here | set(what)
        else:
            ledger = ledger.with_gap(Gap(STREAM, *what, "spool full", 0))
            gone |= set(range(what[0], what[1] + 1)) - here
        gone -= here
    assert numbers(ledger.stored) == sorted(here)
    assert numbers((gap.first_seq, gap.last_seq) for gap in ledger.gaps) == sorted(gone)
    assert ledger.stored_seq == next(seq for seq in range(14) if seq + 1 not in here | gone)
    assert all(ledger.holds(seq) == (seq in here) for seq in range(14))
    account = ledger.ended(12).account
    assert (account.numbered, account.stored, account.pending, account.lost) == (
        12,
        len(here),
        12 - len(here | gone),
        len(gone),
    )


@given(steps, st.booleans())
def test_the_open_gap_follows_what_is_settled(history, back):
    ledger = Ledger()
    for kind, what in history:
        ledger = ledger.with_stored(what) if kind == "stored" else ledger.with_gap(Gap(STREAM, *what, "lost", 0))
    before = ledger.gaps
    left = ledger.with_gap(Gap(STREAM, 1, None, "connection lost", 5))
    assert left.gaps == (*before, Gap(STREAM, ledger.stored_seq + 1, None, "connection lost", 5))
    assert left.account.lost is None
    assert left.account.pending is None
    assert left.stored_seq == ledger.stored_seq
    assert (left.without_open_gap() if back else left.ended(12)).gaps == before


def test_numbers_begin_at_one():
    assert Ledger().with_gap(Gap(STREAM, 0, 2, "spool full", 0)).account.lost == 2
    assert Ledger().with_gap(Gap(STREAM, 3, 2, "nothing", 0)) == Ledger()
