"""cvmprobe doctor about a node of a cluster: from what its agent told the collector."""

import json

import pytest

from cvmprobe.cli import endpoint
from cvmprobe.cli.__main__ import main
from cvmprobe.model.endpoint import Endpoint, Role
from cvmprobe.model.environment import Confidence, Environment, Fact, TeeKind, TeeVerdict
from cvmprobe.model.query import Attachment, NodeStatus

TEE = TeeVerdict(TeeKind.TDX, None, None, Confidence.MEDIUM, ("CPUID 0x21: 'IntelTDX'",))
GOOD = Environment((Fact("kernel", "6.12", "uname"),), TEE)
PEER = Environment((Fact("kernel", "not asked", "uname"),), TEE)
BAD = Environment((Fact("cpu_quota", "10000 100000", "cpu.max"),), TEE)
NODES = {"good": GOOD, "bad": BAD, "mute": None}


class Collector:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def list_nodes(self):
        return [
            NodeStatus(Endpoint(name, role), Attachment.ATTACHED, "1", "s", 0, 0, 0, 0, 0, told)
            for name, found in NODES.items()
            for role, told in ((Role.PEER, found and PEER), (Role.POD, found))
        ]


@pytest.fixture
def cvmprobe(tmp_path, monkeypatch):
    for name in ("ca", "token"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----")
    monkeypatch.setattr(endpoint.Connection, "client", lambda *_: Collector())
    flags = ["--collector", "h:1", "--ca-file", str(tmp_path / "ca"), "--token-file", str(tmp_path / "token")]
    return lambda line: main([*line.split(), *flags])


def test_a_node_of_the_cluster_is_told_without_going_there(cvmprobe, capsys):
    assert cvmprobe("doctor --node good") == 0
    text = capsys.readouterr().out
    assert "cvmprobe doctor: good" in text
    assert "tdx, confidence medium, not attested" in text
    assert "kernel         6.12" in text
    assert "Measuring is sound here" in text


def test_the_exit_code_is_the_verdict_in_every_format(cvmprobe, capsys):
    assert cvmprobe("doctor --node bad -o json") == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["node"], record["sound"], record["findings"][0]["subject"]) == ("bad", False, "cpu")
    assert cvmprobe("doctor --node bad -o csv") == 1
    assert capsys.readouterr().out.startswith("weight,subject,what,cost,remedy\nunsound,cpu,")


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("doctor --node other", 2, "no such node; there are bad, good, mute"),
        ("doctor --node mute", 1, "nothing is known"),
        ("doctor", 2, "which node?"),
        ("doctor --node good --volume /tmp", 2, "--volume looks here"),
    ],
)
def test_what_cannot_be_told_is_said_in_one_line(cvmprobe, capsys, line, code, told):
    assert cvmprobe(line) == code
    (said,) = capsys.readouterr().err.splitlines()
    assert told in said
