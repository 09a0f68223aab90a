"""Nodes of one pool that differ are named; what is unknown, or of another pool, is no difference."""

from cvmprobe.analysis.pools import disagreements
from cvmprobe.model.environment import Confidence, Environment, Fact, TeeKind, TeeVerdict


def node(kind=TeeKind.SEV_SNP, **facts):
    verdict = TeeVerdict(kind, None, None, Confidence.MEDIUM, ())
    return Environment(tuple(Fact(name, value, "read") for name, value in facts.items()), verdict)


def test_nodes_that_agree_are_not_named():
    assert disagreements({}) == ()
    assert disagreements({"a": node(kernel="6.6")}) == ()
    assert disagreements({name: node(kernel="6.6", boot_id=name) for name in "abc"}) == ()


def test_the_odd_one_is_named_beside_the_others():
    nodes = {"a": node(kernel="6.6"), "b": node(kernel="6.1"), "c": node(kernel="6.6"), "d": node(TeeKind.NONE)}
    assert disagreements(nodes) == (
        "nodes differ in TEE: d: none; others (3): sev-snp",
        "nodes differ in kernel: b: 6.1; others (2): 6.6",
    )


def test_other_pools_may_differ():
    nodes = {
        "a": node(instance_type="dc4", kernel="6.6"),
        "b": node(TeeKind.TDX, instance_type="ec4", kernel="6.1"),
        "c": node(TeeKind.TDX, instance_type="ec4", kernel="6.6"),
    }
    assert disagreements(nodes) == ("nodes of pool ec4 differ in kernel: c: 6.6; others (1): 6.1",)


def test_what_is_unknown_is_no_difference():
    assert disagreements({"a": node(cpu_model=None), "b": node(cpu_model="EPYC")}) == ()
