"""A snapshot holds all it says, is whole or not there, and a damaged one is one clear line."""

import csv
import hashlib
import json
import pathlib
import random
import zipfile

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit import strategies as some

from cvmprobe.errors import StoreError, UsageError
from cvmprobe.model.delivery import Batch, Gap, Hello, StreamKey
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, Path, Role, VolumeTarget
from cvmprobe.model.environment import Confidence, Environment, Fact, TeeKind, TeeVerdict
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.query import Selection, SnapshotFormat, TimeRange
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.model.window import ClockPair, Direction, Flag, Instance, Phase, Probe, SampleBlock, Window
from cvmprobe.store.duck import DuckStore
from cvmprobe.store.manifest import SCHEMA_VERSION, Manifest, Member, decode_manifest, encode_manifest
from cvmprobe.store.snapshot import read_snapshot, write_snapshot

GOLDEN = pathlib.Path(__file__).parents[1] / "data"
A = StreamKey("local", Endpoint("local-a", Role.POD), "boot", "start-a")
B = StreamKey("local", Endpoint("local-b", Role.POD), "boot", "start-b")
RR = Instance("lease-1", Probe.TCP_RR, A.endpoint, EndpointTarget(B.endpoint, Path.INTER_NODE), Direction.FORWARD, 0)
DISK = Instance("lease-2", Probe.DISK, B.endpoint, VolumeTarget("data"), Direction.NONE, 0, {"mode": "randread"})
LATENCY = Histogram(8, {3000: 2, 2990: 5}, 0, 1, 12_345, 2**128 - 1, 3_000, 2**40)
FIRST = Window(RR, 1_000, 10**9, Phase.STEADY, {"transactions": 8}, {"latency_ns": LATENCY}, {"wait": "block"})
SECOND = Window(DISK, 2_000, 10**9, Phase.STEADY, {"reads": 2**64 - 1}, {}, {}, frozenset({Flag.LATE, Flag.CUT}))
TEE = TeeVerdict(TeeKind.NONE, None, None, Confidence.HIGH, ("cpuid: no bit set",))
RUN = Run(
    "run-1",
    "quick",
    1.0,
    RunState.DONE,
    500,
    2_500,
    Cost(9.5, 10**9, 0),
    1,
    (LeaseRecord("lease-1", "rr", RR, "done", "", {"transactions": 8}),),
)
LOST = Gap(A, 2, 3, "spool full", 1_500)


def hello(stream):
    facts = Environment((Fact("kernel", "6.18", "/proc/version"), Fact("smt", None, "not readable")), TEE)
    return Hello("0.1", stream.endpoint, stream.boot_id, stream.start_id, 4000, 0, facts)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = DuckStore(tmp_path_factory.mktemp("store") / "store.duckdb")
    for stream in (A, B):
        store.put_node(stream, hello(stream))
    store.commit(A, [Batch(1, (FIRST,))])
    store.commit(B, [Batch(1, (SECOND,))])
    store.open_gap(LOST)
    store.put_run(RUN)
    store.add_samples(A, SampleBlock(RR, ClockPair(10, 1_000_000_010), bytes(range(48)), 4))
    yield store
    store.close()


@pytest.fixture(scope="module")
def good(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.snapshot.zip"
    write_snapshot(store, path, with_samples=True)
    return path


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "some.snapshot.zip"
        path.write_bytes(content)
        return path

    return write


def repacked(good, change, compression=zipfile.ZIP_STORED):
    """Return the bytes of a good snapshot after ``change`` was made to its dictionary of members."""
    with zipfile.ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    path = good.with_name("repacked.zip")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path.read_bytes()


def replace_table(members, table, rows):
    document = json.loads(members["manifest.json"])
    listed = {"bytes": len(table), "rows": rows, "sha256": hashlib.sha256(table).hexdigest()}
    document["members"]["windows.parquet"] = listed
    members["manifest.json"] = json.dumps(document).encode()
    members["windows.parquet"] = table


class TestWhole:
    def test_all_of_it_comes_back(self, good):
        snapshot = read_snapshot(good)
        manifest = snapshot.manifest
        assert list(snapshot.windows()) == [FIRST, SECOND]
        assert (manifest.suite, manifest.runs, manifest.gaps) == ("quick", (RUN,), (LOST,))
        assert manifest.nodes == {A: hello(A), B: hello(B)}
        assert manifest.time_range == TimeRange(1_000, 2_001)
        assert manifest.samples_lost == 4
        assert {name: member.rows for name, member in manifest.members.items()} == {
            "windows.parquet": 3,
            "samples.parquet": 3,
        }
        assert set(manifest.versions) == {"cvmprobe", "duckdb", "python"}

    def test_windows_are_selected_as_in_the_store(self, good):
        snapshot = read_snapshot(good)
        assert list(snapshot.windows(Selection(run_id="run-1"))) == [FIRST]
        assert list(snapshot.windows(Selection(run_id="another"))) == []
        assert list(snapshot.windows(Selection(probes=(Probe.DISK,)))) == [SECOND]
        assert list(snapshot.windows(time_range=TimeRange(1_001, None))) == [SECOND]

    def test_a_run_alone_has_what_concerns_it(self, store, tmp_path):
        write_snapshot(store, tmp_path / "run.zip", selection=Selection(run_id="run-1"))
        snapshot = read_snapshot(tmp_path / "run.zip")
        assert list(snapshot.windows()) == [FIRST]
        assert set(snapshot.manifest.nodes) == {A}
        assert snapshot.manifest.gaps == (LOST,)
        assert snapshot.manifest.samples_lost is None
        assert set(snapshot.manifest.members) == {"windows.parquet"}

    def test_nothing_selected_is_an_empty_snapshot(self, store, tmp_path):
        write_snapshot(store, tmp_path / "none.zip", time_range=TimeRange(9_000, None))
        snapshot = read_snapshot(tmp_path / "none.zip")
        assert list(snapshot.windows()) == []
        assert (snapshot.manifest.runs, snapshot.manifest.suite) == ((), None)
        assert snapshot.manifest.time_range == TimeRange(None, None)

    def test_the_same_content_makes_the_same_tables(self, store, good, tmp_path):
        again = write_snapshot(store, tmp_path / "again.zip", with_samples=True)
        assert again.members == read_snapshot(good).manifest.members

    def test_the_tables_need_no_cvmprobe(self, good, tmp_path):
        with zipfile.ZipFile(good) as archive:
            archive.extractall(tmp_path)
        query = "SELECT t_ns, value_ns, kind, flags, aux, t_unix_ns, lost_before, node, probe FROM read_parquet(?)"
        rows = duckdb.connect().execute(query, [str(tmp_path / "samples.parquet")]).fetchall()
        first = int.from_bytes(bytes(range(8)), "little")
        assert rows[0][:5] == (first, int.from_bytes(bytes(range(8, 12)), "little"), 12, 13, 0x0F0E)
        assert rows[0][5:] == (1_000_000_000 + first, 4, "local-a", "tcp_rr")
        assert [row[6] for row in rows] == [4, 0, 0]

    @pytest.mark.parametrize("golden", sorted(GOLDEN.glob("snapshot-*.zip")), ids=lambda path: path.stem)
    def test_every_version_ever_written_is_read(self, golden):
        """``snapshot-N.zip`` is what ``good`` was when schema N came; a new schema adds one, none is changed."""
        snapshot = read_snapshot(golden)
        assert f"snapshot-{snapshot.manifest.schema_version}" == golden.stem
        assert list(snapshot.windows()) == [FIRST, SECOND]
        assert (snapshot.manifest.runs, snapshot.manifest.gaps) == ((RUN,), (LOST,))
        assert snapshot.manifest.nodes == {A: hello(A), B: hello(B)}
        assert snapshot.manifest.members["samples.parquet"].rows == 3

    def test_the_newest_version_has_its_golden_file(self):
        assert (GOLDEN / f"snapshot-{SCHEMA_VERSION}.zip").exists()

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        runs=st.lists(some.runs, max_size=2).map(tuple),
        nodes=st.dictionaries(some.names, some.hellos, max_size=2),
        span=some.spans,
        suite=some.maybe(some.names),
    )
    def test_any_manifest_comes_back_equal(self, runs, nodes, span, suite):
        streams = {StreamKey(name, one.endpoint, one.boot_id, one.start_id): one for name, one in nodes.items()}
        gaps = tuple(Gap(stream, 1, None, "connection lost", 3) for stream in streams)
        members = {"windows.parquet": Member(1, 2, "00")}
        manifest = Manifest(1, 5, suite, span, runs, streams, gaps, {"cvmprobe": "0"}, None, members)
        assert decode_manifest(encode_manifest(manifest)) == manifest


class TestText:
    def test_json_has_manifest_and_rows(self, store, tmp_path):
        path = tmp_path / "out.json"
        write_snapshot(store, path, snapshot_format=SnapshotFormat.JSON)
        document = json.loads(path.read_text(encoding="utf-8"))
        assert document["manifest"]["suite"] == "quick"
        latency = next(row for row in document["windows"] if row["metric"] == "latency_ns")
        assert latency["facts"] == {"wait": "block"}
        assert dict(zip(latency["bucket_indices"], latency["bucket_counts"], strict=True)) == LATENCY.buckets
        assert [row["value"] for row in document["windows"]] == [8, None, 2**64 - 1]

    def test_json_of_nothing_is_json(self, store, tmp_path):
        path = tmp_path / "out.json"
        write_snapshot(store, path, time_range=TimeRange(9_000, None), snapshot_format=SnapshotFormat.JSON)
        assert json.loads(path.read_text(encoding="utf-8"))["windows"] == []

    def test_csv_has_a_header_and_a_line_a_row(self, store, tmp_path):
        path = tmp_path / "out.csv"
        write_snapshot(store, path, snapshot_format=SnapshotFormat.CSV)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["node"], row["metric"], row["flags"]) for row in rows] == [
            ("local-a", "transactions", ""),
            ("local-a", "latency_ns", ""),
            ("local-b", "reads", "cut,late"),
        ]
        assert json.loads(rows[1]["bucket_indices"]) == [3000, 2990]

    def test_samples_in_a_text_format_are_refused(self, store, tmp_path):
        with pytest.raises(UsageError, match="zip alone"):
            write_snapshot(store, tmp_path / "out.csv", with_samples=True, snapshot_format=SnapshotFormat.CSV)


class TestWriting:
    def test_a_file_that_is_there_is_kept_unless_told(self, store, tmp_path):
        path = tmp_path / "out.zip"
        path.write_bytes(b"mine")
        with pytest.raises(UsageError, match="is there already"):
            write_snapshot(store, path)
        assert path.read_bytes() == b"mine"
        write_snapshot(store, path, overwrite=True)
        assert list(read_snapshot(path).windows()) == [FIRST, SECOND]

    def test_nothing_is_left_beside_it(self, store, tmp_path):
        write_snapshot(store, tmp_path / "out.zip")
        with pytest.raises(UsageError, match="run nobody"):
            write_snapshot(store, tmp_path / "none.zip", selection=Selection(run_id="nobody"))
        assert [path.name for path in tmp_path.iterdir()] == ["out.zip"]

    def test_a_folder_that_is_not_there_is_one_clear_line(self, store, tmp_path):
        with pytest.raises(StoreError, match=r"cannot be written.*No such file"):
            write_snapshot(store, tmp_path / "nowhere" / "out.zip")


class TestDamage:
    """Whatever is wrong with a file, reading it gives what was written, or a StoreError of one line."""

    def read(self, path):
        failure = ""
        try:
            snapshot = read_snapshot(path)
            return snapshot.manifest, list(snapshot.windows())
        except StoreError as error:
            failure = str(error)
        assert failure.startswith(f"snapshot {path}: ")
        assert "\n" not in failure
        return None

    def test_truncated_anywhere(self, good, written):
        content = good.read_bytes()
        for size in {0, 1, 21, 22, len(content) - 1, *random.Random(1).sample(range(len(content)), 150)}:
            assert self.read(written(content[:size])) is None

    def test_flipped_bits(self, good, written):
        content = bytearray(good.read_bytes())
        whole = self.read(good)
        seen = set()
        # The ends of a zip hold its headers; in between is what the hashes guard.
        places = [
            *random.Random(2).sample(range(len(content)), 200),
            *range(60),
            *range(len(content) - 300, len(content)),
        ]
        for place in places:
            content[place] ^= 1 << (place % 8)
            found = self.read(written(content))
            content[place] ^= 1 << (place % 8)
            assert found in (None, whole)
            seen.add(found is None)
        assert True in seen

    @settings(max_examples=100, deadline=None)
    @given(content=st.binary(max_size=300))
    def test_any_bytes(self, content, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / "any.zip"
        path.write_bytes(content)
        assert self.read(path) is None

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_manifest(self, good, data, tmp_path_factory):
        """Change one value anywhere in the manifest to anything JSON has."""
        junk = st.none() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({}) | st.floats(allow_nan=False)

        def spoil(members):
            document = json.loads(members["manifest.json"])
            at = document
            while True:
                keys = list(at) if isinstance(at, dict) else list(range(len(at)))
                key = data.draw(st.sampled_from(keys))
                if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
                    at[key] = data.draw(junk)
                    break
                at = at[key]
            members["manifest.json"] = json.dumps(document).encode()

        path = tmp_path_factory.getbasetemp() / "spoiled.zip"
        path.write_bytes(repacked(good, spoil))
        found = self.read(path)
        assert found is None or found[1] == [FIRST, SECOND]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda members: members.pop("manifest.json"), "no manifest.json"),
            (lambda members: members.pop("windows.parquet"), "not those it lists"),
            (lambda members: members.update({"more.txt": b""}), "not those it lists"),
            (lambda members: members.update({"windows.parquet": b"x"}), "has 1 bytes, not"),
            (
                lambda members: members.update({"windows.parquet": members["windows.parquet"][::-1]}),
                "windows.parquet was altered",
            ),
            (lambda members: members.update({"manifest.json": b"[" * 10**6}), "cannot be read"),
            (lambda members: members.update({"manifest.json": b"{}"}), "cannot be read"),
            (
                lambda members: members.update({"manifest.json": b'{"format": "theirs", "schema_version": 1}'}),
                "not 'cvmprobe snapshot'",
            ),
            (
                lambda members: members.update(
                    {"manifest.json": b'{"format": "cvmprobe snapshot", "schema_version": 9}'}
                ),
                "schema version is 9",
            ),
        ],
    )
    def test_what_is_wrong_is_said(self, good, written, change, says):
        path = written(repacked(good, change))
        with pytest.raises(StoreError, match=says):
            read_snapshot(path)

    def test_a_packed_member_is_refused_before_it_is_read(self, good, written):
        bomb = repacked(good, lambda members: members.update({"windows.parquet": bytes(10**8)}), zipfile.ZIP_DEFLATED)
        with pytest.raises(StoreError, match="is packed"):
            read_snapshot(written(bomb))

    def test_a_table_with_other_columns_is_refused(self, good, written, tmp_path):
        other = tmp_path / "other.parquet"
        duckdb.connect().execute(f"COPY (SELECT 1 AS node) TO '{other}' (FORMAT parquet)")
        path = written(repacked(good, lambda members: replace_table(members, other.read_bytes(), 1)))
        with pytest.raises(StoreError, match="other columns"):
            list(read_snapshot(path).windows())

    def test_a_table_with_other_rows_than_listed_is_refused(self, good, written):
        path = written(repacked(good, lambda members: replace_table(members, members["windows.parquet"], 10**12)))
        with pytest.raises(StoreError, match="3 rows, not 1000000000000"):
            list(read_snapshot(path).windows())

    def test_a_table_that_is_no_parquet_is_refused(self, good, written):
        path = written(repacked(good, lambda members: replace_table(members, b"PAR1" + bytes(100) + b"PAR1", 3)))
        with pytest.raises(StoreError, match="cannot be read"):
            list(read_snapshot(path).windows())

    def test_a_row_that_makes_no_sense_is_refused(self, good, written, tmp_path):
        with zipfile.ZipFile(good) as archive:
            archive.extract("windows.parquet", tmp_path)
        spoiled = tmp_path / "spoiled.parquet"
        query = f"SELECT * REPLACE ('wormhole' AS phase) FROM read_parquet('{tmp_path / 'windows.parquet'}')"
        duckdb.connect().execute(f"COPY ({query}) TO '{spoiled}' (FORMAT parquet)")
        path = written(repacked(good, lambda members: replace_table(members, spoiled.read_bytes(), 3)))
        with pytest.raises(StoreError, match="wormhole"):
            list(read_snapshot(path).windows())

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(StoreError, match="no such file"):
            read_snapshot(tmp_path / "none.zip")

    def test_a_file_that_changes_after_it_was_read(self, good, tmp_path):
        path = tmp_path / "changing.zip"
        path.write_bytes(good.read_bytes())
        snapshot = read_snapshot(path)
        path.write_bytes(repacked(good, lambda members: members.update({"windows.parquet": b"x"})))
        with pytest.raises(StoreError, match="has 1 bytes, not"):
            list(snapshot.windows())
