"""CPU time of the whole node: the difference of two looks, beside what the node would have done anyway."""

import pytest

from cvmprobe.probes.node_cpu import NodeCpu

TICK_NS = 10_000_000
S = 1_000_000_000


class Node:
    """A /proc/stat and a clock that a test moves."""

    def __init__(self, root):
        self.file = root / "proc/stat"
        self.file.parent.mkdir()
        self.now_ns = 5 * S
        self.ticks = dict.fromkeys(("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"), 100)
        self.pass_by(0)

    def pass_by(self, seconds, **ticks):
        self.now_ns += int(seconds * S)
        for name, more in ticks.items():
            self.ticks[name] += more
        self.file.write_text(f"cpu  {' '.join(map(str, self.ticks.values()))} 7 7\ncpu0 1 1 1 1 1 1 1 1\n")

    def cpu(self):
        return NodeCpu(self.file.parents[1], lambda: self.now_ns)


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    return Node(tmp_path)


def test_what_is_busy_is_neither_idle_nor_waiting(node):
    cpu = node.cpu()
    cpu.counters()
    node.pass_by(1, user=1, nice=2, system=3, idle=1000, iowait=1000, irq=4, softirq=5, steal=6)
    assert cpu.counters() == {
        "node_busy_ns": 21 * TICK_NS,
        "node_irq_ns": 4 * TICK_NS,
        "node_softirq_ns": 5 * TICK_NS,
    }


def test_the_baseline_goes_on_beside_the_load(node):
    cpu = node.cpu()
    cpu.look(lambda seconds: node.pass_by(seconds, user=5, idle=45))
    node.pass_by(2, user=100, softirq=60, idle=40)
    seen = cpu.counters()
    assert seen["node_busy_ns"] == 160 * TICK_NS
    assert seen["node_baseline_ns"] == 40 * TICK_NS  # 5 ticks in a quarter of a second, for two seconds


def test_where_nothing_can_be_read_nothing_is_known(node):
    cpu = node.cpu()
    cpu.counters()
    node.file.write_text("cpu 1 2 3\n")
    assert cpu.counters() == {}
    node.file.unlink()
    assert cpu.counters() == {}
    node.pass_by(1)
    assert cpu.counters() == {}  # there is nothing to subtract from
    node.pass_by(1, user=3)
    assert cpu.counters()["node_busy_ns"] == 3 * TICK_NS
