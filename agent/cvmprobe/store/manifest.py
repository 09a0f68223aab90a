"""What a snapshot says about itself: where it is from, what is missing, and the hash of every member."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from cvmprobe.errors import StoreError
from cvmprobe.model.delivery import Gap, Hello, StreamKey
from cvmprobe.model.query import TimeRange
from cvmprobe.model.run import Run
from cvmprobe.store.documents import NodeDocument, RunDocument

__all__ = ["SCHEMA_VERSION", "Manifest", "Member", "decode_manifest", "encode_manifest"]

FORMAT = "cvmprobe snapshot"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a snapshot. ``rows`` are those of its table."""

    bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of a snapshot but its tables.

    ``time_range`` spans the ends of its windows, open where it has none. ``suite`` is None unless it holds one run.
    ``nodes`` has, with its environment, every start of an agent that a window or a gap is from.
    """

    schema_version: int
    created_unix_ms: int
    suite: str | None
    time_range: TimeRange
    runs: tuple[Run, ...]
    nodes: Mapping[StreamKey, Hello]
    gaps: tuple[Gap, ...]
    versions: Mapping[str, str]
    samples_lost: int | None  # None: samples were not asked for
    members: Mapping[str, Member]


class _Header(msgspec.Struct, frozen=True):
    """What every version of a manifest has."""

    format: str
    schema_version: int


class _Document(msgspec.Struct, frozen=True):
    """A manifest of version 1 as JSON."""

    format: str
    schema_version: int
    created_unix_ms: int
    suite: str | None
    time_range: TimeRange
    runs: tuple[RunDocument, ...]
    nodes: tuple[NodeDocument, ...]
    gaps: tuple[Gap, ...]
    versions: Mapping[str, str]
    samples_lost: int | None
    members: Mapping[str, Member]


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as JSON, indented for a person."""
    document = _Document(
        format=FORMAT,
        schema_version=manifest.schema_version,
        created_unix_ms=manifest.created_unix_ms,
        suite=manifest.suite,
        time_range=manifest.time_range,
        runs=tuple(map(RunDocument.of, manifest.runs)),
        nodes=tuple(NodeDocument(stream.cluster, hello) for stream, hello in manifest.nodes.items()),
        gaps=manifest.gaps,
        versions=manifest.versions,
        samples_lost=manifest.samples_lost,
        members=manifest.members,
    )
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def decode_manifest(text: bytes) -> Manifest:
    """Return the manifest of JSON text; StoreError where it is of a later version, ValueError where it is none."""
    header = msgspec.json.decode(text, type=_Header)
    if header.format != FORMAT:
        raise ValueError(f"its format is {header.format[:40]!r}, not {FORMAT!r}")
    if header.schema_version not in READERS:
        known = max(READERS)
        raise StoreError(f"its schema version is {header.schema_version}, this cvmprobe reads up to {known}: update it")
    return READERS[header.schema_version](text)


def _decode_version_1(text: bytes) -> Manifest:
    document = msgspec.json.decode(text, type=_Document)
    return Manifest(
        schema_version=document.schema_version,
        created_unix_ms=document.created_unix_ms,
        suite=document.suite,
        time_range=document.time_range,
        runs=tuple(one.run() for one in document.runs),
        nodes={one.stream: one.hello for one in document.nodes},
        gaps=document.gaps,
        versions=document.versions,
        samples_lost=document.samples_lost,
        members=document.members,
    )


READERS: Mapping[int, Callable[[bytes], Manifest]] = {1: _decode_version_1}  # every version ever written
