"""A store in memory for tests: sets of numbers instead of ranges, and failures on demand."""

from cvmprobe.errors import StoreError
from cvmprobe.store import Account


class MemoryStore:
    def __init__(self):
        self.batches = {}  # stream -> {seq: Batch}
        self.declared = {}  # stream -> set of seqs
        self.open = {}  # stream -> Gap
        self.last = {}
        self.hellos = {}
        self.blocks = []
        self.kept_runs = {}
        self.commits = 0
        self.refuse = lambda stream: False  # asked before every write

    def _check(self, stream):
        if self.refuse(stream):
            raise StoreError("the disk is full")

    def commit(self, stream, batches):
        self._check(stream)
        self.commits += 1
        mine = self.batches.setdefault(stream, {})
        for batch in batches:
            mine.setdefault(batch.seq, batch)
        self.declared.get(stream, set()).difference_update(mine)

    def stored_seq(self, stream):
        here = set(self.batches.get(stream, {})) | self.declared.get(stream, set())
        seq = 0
        while seq + 1 in here:
            seq += 1
        return seq

    def account(self, stream):
        lost = None if stream in self.open else len(self.declared.get(stream, set()))
        return Account(self.stored_seq(stream), self.last.get(stream), len(self.batches.get(stream, {})), lost)

    def put_node(self, stream, hello):
        self._check(stream)
        self.hellos[stream] = hello

    def nodes(self):
        return dict(self.hellos)

    def open_gap(self, gap):
        self._check(gap.stream)
        if gap.last_seq is None:
            self.open[gap.stream] = gap
            return
        missing = set(range(gap.first_seq, gap.last_seq + 1)) - set(self.batches.get(gap.stream, {}))
        self.declared.setdefault(gap.stream, set()).update(missing)

    def close_gap(self, stream):
        self._check(stream)
        self.open.pop(stream, None)

    def end_stream(self, stream, last_seq):
        self._check(stream)
        self.open.pop(stream, None)
        self.last[stream] = last_seq

    def gaps(self):
        return tuple(self.open.values())

    def windows(self, selection=None, time_range=None):
        for batches in self.batches.values():
            for seq in sorted(batches):
                yield from batches[seq].windows

    def add_samples(self, stream, block):
        self._check(stream)
        self.blocks.append(block)

    def put_run(self, run):
        self._check(None)
        self.kept_runs[run.run_id] = run

    def runs(self):
        return tuple(self.kept_runs.values())
