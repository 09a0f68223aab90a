"""The zip around a snapshot's members, which are stored as they are: no member can be larger than the file."""

import hashlib
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import duckdb

from cvmprobe.errors import StoreError
from cvmprobe.store.database import first_line
from cvmprobe.store.manifest import Manifest, Member, decode_manifest

__all__ = ["MANIFEST", "SAMPLES_TABLE", "WINDOWS_TABLE", "copy_member", "damage_named", "member_of", "pack", "verify"]

MANIFEST = "manifest.json"
WINDOWS_TABLE = "windows.parquet"
SAMPLES_TABLE = "samples.parquet"
MANIFEST_BYTES = 64 * 2**20
CHUNK_BYTES = 2**20
ENCRYPTED = 0x1
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first a zip can say: the same content makes the same bytes
# What zipfile, json and DuckDB raise for bytes that are not what they should be.
DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,  # and so RecursionError
    KeyError,
    duckdb.Error,
)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes a reader raise into a StoreError of one line that names the file."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"snapshot {path}: {error}") from error
    except FileNotFoundError as error:
        raise StoreError(f"snapshot {path}: no such file") from error
    except DAMAGE as error:
        raise StoreError(f"snapshot {path}: cannot be read: {first_line(error)}; take a good copy") from error


def member_of(path: Path, rows: int) -> Member:
    """Return what the manifest says of a table in a file."""
    with path.open("rb") as file:
        return Member(bytes=path.stat().st_size, rows=rows, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def pack(path: Path, manifest: bytes, tables: Mapping[str, Path]) -> None:
    """Write manifest and tables into one new zip."""
    with zipfile.ZipFile(path, "x") as archive:
        archive.writestr(zipfile.ZipInfo(MANIFEST, EPOCH), manifest)
        for name, table in tables.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.file_size = table.stat().st_size  # so that zipfile knows whether it needs 64 bits
            with table.open("rb") as source, archive.open(info, "w") as member:
                while chunk := source.read(CHUNK_BYTES):
                    member.write(chunk)


def verify(path: Path) -> Manifest:
    """Return the manifest of a zip whose members are all there, no others, each of the size and hash listed."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(info.filename for info in archive.infolist())
        if MANIFEST not in names:
            raise StoreError("it has no manifest.json, so cvmprobe did not write it")
        manifest = decode_manifest(_read_manifest(archive))
        listed = {MANIFEST, *manifest.members}
        if names != sorted(listed) or not {WINDOWS_TABLE} <= listed <= {MANIFEST, WINDOWS_TABLE, SAMPLES_TABLE}:
            raise StoreError(f"its members {names} are not those it lists")
        for name, member in manifest.members.items():
            _check(archive, name, member)
        return manifest


def copy_member(path: Path, name: str, member: Member, to: Path) -> None:
    """Copy a member out of the zip; StoreError unless it is as listed."""
    with zipfile.ZipFile(path) as archive, to.open("xb") as file:
        _check(archive, name, member, file)


def _read_manifest(archive: zipfile.ZipFile) -> bytes:
    info = _plain(archive, MANIFEST)
    if info.file_size > MANIFEST_BYTES:
        raise StoreError(f"its manifest has {info.file_size} bytes, more than {MANIFEST_BYTES}")
    return archive.read(info)


def _plain(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return a member that is stored as it is, so that reading it cannot yield more than the file holds."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & ENCRYPTED:
        raise StoreError(f"its member {name} is packed, and cvmprobe packs none")
    return info


def _check(archive: zipfile.ZipFile, name: str, member: Member, to: IO[bytes] | None = None) -> None:
    """Read a member to its end, and copy it; StoreError unless size and hash are as listed."""
    info = _plain(archive, name)
    if info.file_size != member.bytes:
        raise StoreError(f"its member {name} has {info.file_size} bytes, not {member.bytes}")
    digest = hashlib.sha256()
    with archive.open(info) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if to is not None:
                to.write(chunk)
    if digest.hexdigest() != member.sha256:
        raise StoreError(f"its member {name} was altered: its SHA-256 is not the one listed")
