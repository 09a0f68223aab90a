"""Small parts of the collector: tokens, certificates, endpoint file, state directory, live windows."""

import asyncio
import datetime as dt
import json
import stat
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cryptography import x509
from tests.unit.ingesting import Collector, hello, quick_retries, stream, until
from tests.unit.memory_store import MemoryStore

from cvmprobe.collector.certificates import Certificates
from cvmprobe.collector.daemon import _closed, _declare_cut_off, _make_state_dir, _prune, _write_endpoint
from cvmprobe.collector.identity import read_tokens
from cvmprobe.collector.live import Live
from cvmprobe.collector.spending import DAY_MS
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.errors import ConfigError
from cvmprobe.model.endpoint import Endpoint, Role, VolumeTarget
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.query import Missed, Selection
from cvmprobe.model.run import Cost, Run, RunState
from cvmprobe.model.window import Direction, Instance, Phase, Probe, Window
from cvmprobe.wire.identity import Access, Principal

__all__ = ["quick_retries"]


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.json"

    def write(holders, mode=0o600):
        path.write_text(holders if isinstance(holders, str) else json.dumps(holders))
        path.chmod(mode)
        return path

    return write


async def test_tokens_are_those_of_the_file_and_no_others(tokens):
    known = read_tokens(
        tokens({"t1": {"name": "n1", "access": "agent", "node": "n1"}, "t2": {"name": "somebody", "access": "viewer"}})
    )
    assert await known.authenticate("t1") == Principal("n1", Access.AGENT, "n1")
    assert await known.authenticate("t2") == Principal("somebody", Access.VIEWER)
    assert await known.authenticate("t3") is None


@pytest.mark.parametrize(
    ("holders", "mode", "complaint"),
    [
        ({}, 0o640, "open to others"),
        ("[]", 0o600, "tokens file"),
        ({"s3cret": {"name": "x", "access": "god"}}, 0o600, "access"),
        ({"s3cret": {"name": "x", "access": "agent"}}, 0o600, "an agent, and nobody else"),
        ({"s3cret": {"name": "x", "access": "viewer", "node": "n"}}, 0o600, "an agent, and nobody else"),
        ({"s3cret": {"name": "x", "access": "viewer", "nodes": "n"}}, 0o600, "nodes"),
    ],
)
def test_a_wrong_tokens_file_is_refused_without_telling_a_token(tokens, holders, mode, complaint):
    with pytest.raises(ConfigError, match=complaint) as refusal:
        read_tokens(tokens(holders, mode))
    assert "s3cret" not in str(refusal.value)


def test_a_missing_tokens_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json cannot be read"):
        read_tokens(tmp_path / "nowhere.json")


def test_the_server_certificate_is_kept_for_days_and_renewed_long_before_it_ends(tmp_path):
    now = [0.0]
    certificates = Certificates(tmp_path, ["localhost", "127.0.0.1"], lambda: now[0])
    first = certificates.server_tls()
    now[0] = 9 * 86_400
    assert certificates.server_tls() is first
    now[0] = 11 * 86_400
    renewed = certificates.server_tls()
    assert renewed.certificate_pem != first.certificate_pem
    shown = x509.load_pem_x509_certificate(first.certificate_pem)
    assert shown.not_valid_after_utc - dt.datetime.now(dt.UTC) > dt.timedelta(days=20)
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert Certificates(tmp_path, ["x"]).ca_pem == certificates.ca_pem


def test_the_state_directory_is_made_for_us_alone(tmp_path):
    made = tmp_path / "deep" / "state"
    _make_state_dir(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    _make_state_dir(made)
    made.chmod(0o777)
    with pytest.raises(ConfigError, match="anybody may write"):
        _make_state_dir(made)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        _make_state_dir(tmp_path / "file")


def test_the_endpoint_file_is_whole_and_private(tmp_path):
    path = tmp_path / "endpoint.json"
    for address in ("127.0.0.1:1", "127.0.0.1:2"):
        _write_endpoint(path, address, "localhost", b"pem")
        assert json.loads(path.read_text()) == {"address": address, "server_name": "localhost", "ca_pem": "pem"}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["endpoint.json"]


def test_an_endpoint_file_that_cannot_be_written_is_said_and_keeps_nobody_from_serving(tmp_path, caplog):
    _write_endpoint(tmp_path / "gone" / "endpoint.json", "127.0.0.1:1", "localhost", b"pem")
    assert "endpoint.json: No such file or directory; nobody finds us by it" in caplog.text


def test_no_room_for_a_certificate_authority_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match=r"no certificate authority can be made in .*: No such file or directory"):
        Certificates(tmp_path / "gone", ["localhost"])


async def test_what_was_cut_off_has_ended_though_the_disk_is_full(caplog):
    store = MemoryStore()
    store.hellos[stream()] = hello()
    run = Run("r", "quick", 1.0, RunState.RUNNING, 1, None, Cost(1, 1, 1), 1, ())
    store.kept_runs["r"] = run
    store.refuse = lambda asked: True
    _declare_cut_off(store)
    assert "is not on record: the disk is full" in caplog.text
    async with Collector(store).running() as collector:
        ended = _closed(run, collector.writer)
        assert (ended.state, _closed(ended, collector.writer)) == (RunState.INTERRUPTED, ended)
        store.refuse = lambda asked: False
        await collector.writer.flush()
        assert store.runs() == (ended,)


async def test_what_is_too_old_goes_only_once_the_clock_had_time_to_be_set(tmp_path, monkeypatch):
    asked, acts = [], []
    store = SimpleNamespace(prune=lambda before_ms, max_bytes: asked.append((before_ms, max_bytes)))
    writer = SimpleNamespace(act=lambda act: (act(store), acts.append(act)))
    monkeypatch.setattr("cvmprobe.collector.daemon._PRUNE_S", 0)
    monkeypatch.setattr("cvmprobe.collector.daemon.unix_ms", lambda: 100 * DAY_MS)
    pruning = asyncio.create_task(_prune(writer, CollectorSettings(state_dir=tmp_path, keep_days=3, keep_bytes=7)))
    await until(lambda: len(acts) >= 2)
    pruning.cancel()
    assert asked[:2] == [(0, 7), (97 * DAY_MS, 7)]


def window(end, node="a", lease="l", repeat=1):
    instance = Instance(lease, Probe.DISK, Endpoint(node, Role.POD), VolumeTarget("scratch"), Direction.NONE, repeat)
    return Window(instance, end, 1_000, Phase.STEADY)


async def test_a_watcher_gets_what_it_asked_for_and_a_slow_one_is_told_what_it_missed():
    live = Live()
    watch = live.watch_windows(Selection(nodes=("a",)).selects)
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    for end in range(2_000):
        live.window(window(end))
        live.window(window(end, node="b"))
    seen = [await first]
    with suppress(TimeoutError):
        while True:
            seen.append(await asyncio.wait_for(anext(watch), 0.05))
    missed = sum(item.count for item in seen if isinstance(item, Missed))
    windows = [item for item in seen if isinstance(item, Window)]
    assert {item.instance.source.node for item in windows} == {"a"}
    assert missed > 0
    assert missed + len(windows) == 2_000
    assert windows[-1].end_unix_ms == 1_999


def test_each_instance_is_listed_once_with_its_last_window_and_the_oldest_are_forgotten():
    live = Live()
    for end in (3, 1, 2):
        live.window(window(end))
    live.window(window(9, repeat=2), preview=True)
    first, second = live.probes(lambda instance: True)
    assert (first.windows, first.last_end_unix_ms) == (3, 3)
    assert (second.windows, second.last_end_unix_ms) == (0, 9)
    for number in range(5_000):
        live.window(window(1, lease=str(number)))
    listed = live.probes(lambda instance: True)
    assert len(listed) < 5_000
    assert "l" not in {status.instance.assignment_id for status in listed}


def test_an_agent_that_says_much_is_forgotten_itself():
    live = Live()
    live.window(window(1, node="b", lease="of b"))
    for number in range(5_000):
        live.window(window(1, lease=str(number)))
    listed = live.probes(lambda instance: True)
    assert "of b" in {status.instance.assignment_id for status in listed}
    assert "4999" in {status.instance.assignment_id for status in listed}


async def test_large_windows_of_one_agent_fill_no_memory_behind_a_stalled_watcher():
    live = Live()
    watch = live.watch_windows(lambda instance: True)
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    heavy = replace(window(1), histograms={"latency_ns": Histogram(buckets=dict.fromkeys(range(16_000), 1))})
    for _ in range(1_000):
        live.window(heavy)
    assert await first == Missed(1_000 - (32 << 20) // heavy.weight)
    await watch.aclose()
