"""Codec of common.proto: who measures what, and what was measured."""

import zlib

from cvmprobe.errors import WireError
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, NodeTarget, Path, Role, Target, VolumeTarget
from cvmprobe.model.environment import Confidence, Environment, Fact, TeeKind, TeeVerdict
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.window import ClockPair, Direction, Flag, Instance, Phase, Probe, SampleBlock, Window
from cvmprobe.v1 import common_pb2 as wire
from cvmprobe.wire.codec.checks import EnumTable, at_most, capped, each, name, named, text, texts, unix_ms, within

__all__ = [
    "CONFIDENCES",
    "DIRECTIONS",
    "FLAGS",
    "PATHS",
    "PHASES",
    "PROBES",
    "ROLES",
    "ROW_BYTES",
    "TEE_KINDS",
    "decode_endpoint",
    "decode_environment",
    "decode_instance",
    "decode_samples",
    "decode_target",
    "decode_window",
    "encode_endpoint",
    "encode_environment",
    "encode_instance",
    "encode_samples",
    "encode_target",
    "encode_window",
]

PROBES = EnumTable(Probe, wire.Probe, "PROBE")
ROLES = EnumTable(Role, wire.Role, "ROLE")
PATHS = EnumTable(Path, wire.Path, "PATH")
DIRECTIONS = EnumTable(Direction, wire.Direction, "DIRECTION")
PHASES = EnumTable(Phase, wire.Phase, "PHASE")
FLAGS = EnumTable(Flag, wire.Flag, "FLAG")
TEE_KINDS = EnumTable(TeeKind, wire.TeeKind, "TEE_KIND")
CONFIDENCES = EnumTable(Confidence, wire.Confidence, "CONFIDENCE")

ROW_BYTES = 16
_SCHEMAS = range(-4, 9)
_INDEX_CAP = 64 << 8  # the bucket of 2^64 at the finest schema
_HISTOGRAMS_CAP = 64  # of one window
_PARAMETERS_CAP = 4_096  # characters; every window carries them
_BUCKETS_CAP = 65_536  # of one window
_UNIX_NS_CAP = (1 << 63) - 1  # a signed time of day in ns, as readers of the snapshot have it
_BLOCK_CAP = 1 << 20  # bytes of rows
_U64 = 1 << 64


def encode_endpoint(endpoint: Endpoint) -> wire.Endpoint:
    """Encode an endpoint."""
    return wire.Endpoint(node=endpoint.node, role=ROLES.encode(endpoint.role))


def decode_endpoint(message: wire.Endpoint) -> Endpoint:
    """Decode an endpoint."""
    return Endpoint(node=name(message.node, "node"), role=ROLES.decode(message.role, "role"))


def encode_target(target: Target) -> wire.Target:
    """Encode a target."""
    if isinstance(target, VolumeTarget):
        return wire.Target(volume=wire.VolumeTarget(volume=target.volume))
    if isinstance(target, NodeTarget):
        return wire.Target(node=wire.NodeTarget())
    return wire.Target(
        endpoint=wire.EndpointTarget(endpoint=encode_endpoint(target.endpoint), path=PATHS.encode(target.path))
    )


def decode_target(message: wire.Target) -> Target:
    """Decode a target."""
    match message.WhichOneof("target"):
        case "endpoint":
            return within("endpoint", _decode_endpoint_target, message.endpoint)
        case "volume":
            return VolumeTarget(volume=name(message.volume.volume, "volume.volume"))
        case "node":
            return NodeTarget()
        case _:
            raise WireError("target: neither an endpoint nor a volume nor the node")


def _decode_endpoint_target(message: wire.EndpointTarget) -> EndpointTarget:
    return EndpointTarget(
        endpoint=within("endpoint", decode_endpoint, message.endpoint), path=PATHS.decode(message.path, "path")
    )


def encode_instance(instance: Instance) -> wire.Instance:
    """Encode an instance."""
    return wire.Instance(
        assignment_id=instance.assignment_id,
        probe=PROBES.encode(instance.probe),
        source=encode_endpoint(instance.source),
        target=encode_target(instance.target),
        direction=DIRECTIONS.encode(instance.direction),
        repeat=instance.repeat,
        parameters=instance.parameters,
    )


def decode_instance(message: wire.Instance) -> Instance:
    """Decode an instance."""
    return Instance(
        assignment_id=name(message.assignment_id, "assignment_id"),
        probe=PROBES.decode(message.probe, "probe"),
        source=within("source", decode_endpoint, message.source),
        target=within("target", decode_target, message.target),
        direction=DIRECTIONS.decode(message.direction, "direction"),
        repeat=message.repeat,
        parameters=texts(message.parameters, "parameters", _PARAMETERS_CAP),
    )


def _encode_histogram(histogram: Histogram) -> wire.Histogram:
    high, low = divmod(histogram.sum_squares, _U64)
    indexes = sorted(histogram.buckets)
    return wire.Histogram(
        schema=histogram.schema,
        indexes=indexes,
        counts=[histogram.buckets[index] for index in indexes],
        zero=histogram.zero,
        overflow=histogram.overflow,
        sum=histogram.sum,
        sum_squares_high=high,
        sum_squares_low=low,
        minimum=histogram.minimum,
        maximum=histogram.maximum,
    )


def _decode_histogram(message: wire.Histogram) -> Histogram:
    if message.schema not in _SCHEMAS:
        raise WireError(f"schema: {message.schema} is not in {_SCHEMAS.start} to {_SCHEMAS.stop - 1}")
    return Histogram(
        schema=message.schema,
        buckets=_decode_buckets(list(message.indexes), list(message.counts)),
        zero=message.zero,
        overflow=message.overflow,
        sum=message.sum,
        sum_squares=message.sum_squares_high * _U64 + message.sum_squares_low,
        minimum=message.minimum if message.HasField("minimum") else None,
        maximum=message.maximum if message.HasField("maximum") else None,
    )


def _decode_buckets(indexes: list[int], counts: list[int]) -> dict[int, int]:
    if len(indexes) != len(counts):
        raise WireError(f"counts: {len(counts)} for {len(indexes)} indexes")
    buckets = dict(zip(indexes, counts, strict=True))
    if len(buckets) != len(indexes) or indexes != sorted(indexes):
        raise WireError("indexes: not strictly ascending")
    if indexes and not 0 <= indexes[0] <= indexes[-1] <= _INDEX_CAP:
        raise WireError(f"indexes: {indexes[0]} to {indexes[-1]} is not in 0 to {_INDEX_CAP}")
    if 0 in counts:
        raise WireError("counts: 0 in a bucket; an empty bucket is left out")
    return buckets


def encode_window(window: Window) -> wire.Window:
    """Encode a window."""
    return wire.Window(
        instance=encode_instance(window.instance),
        end_unix_ms=window.end_unix_ms,
        duration_ns=window.duration_ns,
        phase=PHASES.encode(window.phase),
        counters=window.counters,
        histograms={metric: _encode_histogram(histogram) for metric, histogram in window.histograms.items()},
        facts=window.facts,
        flags=sorted(FLAGS.encode(flag) for flag in window.flags),
    )


def decode_window(message: wire.Window) -> Window:
    """Decode a window."""
    capped(message.histograms, "histograms", _HISTOGRAMS_CAP)
    at_most(_BUCKETS_CAP, sum(len(one.indexes) for one in message.histograms.values()), "histograms, all buckets")
    flags = [FLAGS.decode(flag, "flags") for flag in capped(message.flags, "flags")]
    if len(set(flags)) != len(flags):
        raise WireError(f"flags: one stands twice in {', '.join(flags)}")
    return Window(
        instance=within("instance", decode_instance, message.instance),
        end_unix_ms=unix_ms(message.end_unix_ms, "end_unix_ms"),
        duration_ns=message.duration_ns,
        phase=PHASES.decode(message.phase, "phase"),
        counters=named(message.counters, "counters"),
        histograms={
            name(metric, "histograms key"): within(f"histograms[{metric}]", _decode_histogram, histogram)
            for metric, histogram in message.histograms.items()
        },
        facts=texts(message.facts, "facts"),
        flags=frozenset(flags),
    )


def encode_samples(block: SampleBlock) -> wire.SampleBlock:
    """Encode a block of samples; the rows are not looked into."""
    count, rest = divmod(len(block.rows), ROW_BYTES)
    if rest:
        raise WireError(f"rows: {len(block.rows)} bytes are no whole number of rows of {ROW_BYTES}")
    return wire.SampleBlock(
        instance=encode_instance(block.instance),
        clock=wire.ClockPair(monotonic_ns=block.clock.monotonic_ns, unix_ns=block.clock.unix_ns),
        schema=wire.SAMPLE_SCHEMA_ROW16,
        count=count,
        crc32=zlib.crc32(block.rows),
        rows=block.rows,
        lost=block.lost,
    )


def decode_samples(message: wire.SampleBlock) -> SampleBlock:
    """Decode a block of samples: length and checksum must agree; the rows are not looked into."""
    if message.schema != wire.SAMPLE_SCHEMA_ROW16:
        raise WireError(f"schema: unknown value {message.schema}; known is {wire.SAMPLE_SCHEMA_ROW16}")
    capped(message.rows, "rows", _BLOCK_CAP)
    if len(message.rows) != message.count * ROW_BYTES:
        raise WireError(f"rows: {len(message.rows)} bytes are not {message.count} rows of {ROW_BYTES}")
    if (found := zlib.crc32(message.rows)) != message.crc32:
        raise WireError(f"crc32: {message.crc32:#010x} was sent, the rows have {found:#010x}")
    return SampleBlock(
        instance=within("instance", decode_instance, message.instance),
        clock=ClockPair(
            monotonic_ns=message.clock.monotonic_ns,
            unix_ns=at_most(_UNIX_NS_CAP, message.clock.unix_ns, "clock.unix_ns"),
        ),
        rows=message.rows,
        lost=message.lost,
    )


def encode_environment(environment: Environment) -> wire.Environment:
    """Encode the facts of a node."""
    tee = environment.tee
    return wire.Environment(
        facts=[wire.Fact(name=fact.name, value=fact.value, source=fact.source) for fact in environment.facts],
        tee=wire.TeeVerdict(
            kind=TEE_KINDS.encode(tee.kind),
            paravisor=tee.paravisor,
            vmpl=tee.vmpl,
            confidence=CONFIDENCES.encode(tee.confidence),
            evidence=tee.evidence,
            attested=tee.attested,
        ),
    )


def decode_environment(message: wire.Environment) -> Environment:
    """Decode the facts of a node."""
    return Environment(
        facts=each("facts", _decode_fact, capped(message.facts, "facts")), tee=within("tee", _decode_tee, message.tee)
    )


def _decode_fact(message: wire.Fact) -> Fact:
    return Fact(
        name=name(message.name, "name"),
        value=text(message.value, "value") if message.HasField("value") else None,
        source=text(message.source, "source"),
    )


def _decode_tee(message: wire.TeeVerdict) -> TeeVerdict:
    return TeeVerdict(
        kind=TEE_KINDS.decode(message.kind, "kind"),
        paravisor=message.paravisor if message.HasField("paravisor") else None,
        vmpl=at_most(3, message.vmpl, "vmpl") if message.HasField("vmpl") else None,
        confidence=CONFIDENCES.decode(message.confidence, "confidence"),
        evidence=tuple(text(line, "evidence") for line in capped(message.evidence, "evidence")),
        attested=message.attested,
    )
