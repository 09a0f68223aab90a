"""Batches as bytes, for an agent's spool: the same message that travels, so that any later version can read it."""

from google.protobuf.message import DecodeError

from cvmprobe.errors import WireError
from cvmprobe.model.delivery import Batch
from cvmprobe.v1 import ingest_pb2 as wire
from cvmprobe.wire.codec.ingest import decode_agent_message, encode_agent_message

__all__ = ["pack_batch", "unpack_batch"]


def pack_batch(batch: Batch) -> bytes:
    """Return ``batch`` as bytes. Raises WireError when a value does not fit."""
    return encode_agent_message(batch).SerializeToString()


def unpack_batch(packed: bytes) -> Batch:
    """Return the batch that ``pack_batch`` made bytes of. Raises WireError when they are not one."""
    try:
        found = decode_agent_message(wire.AttachRequest.FromString(packed))
    except DecodeError as error:
        raise WireError(f"not a batch: {error}") from error
    if not isinstance(found, Batch):
        raise WireError(f"not a batch: {found or 'nothing'}")
    return found
