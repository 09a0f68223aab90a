"""Codec of probe.proto: what a person asks, and the rows of the answers."""

from cvmprobe.errors import WireError
from cvmprobe.model.endpoint import EndpointTarget
from cvmprobe.model.query import (
    Attachment,
    Missed,
    NodeStatus,
    ProbeStatus,
    Selection,
    SnapshotFormat,
    Summary,
    TimeRange,
)
from cvmprobe.model.run import Cost, LeaseRecord, Run, RunState
from cvmprobe.v1 import probe_pb2 as wire
from cvmprobe.wire.codec.checks import (
    EnumTable,
    at_least,
    capped,
    each,
    finite,
    name,
    named,
    port,
    text,
    texts,
    within,
)
from cvmprobe.wire.codec.facts import (
    DIRECTIONS,
    FLAGS,
    PATHS,
    PROBES,
    decode_endpoint,
    decode_environment,
    decode_instance,
    decode_target,
    encode_endpoint,
    encode_environment,
    encode_instance,
    encode_target,
)

__all__ = [
    "ATTACHMENTS",
    "FORMATS",
    "RUN_STATES",
    "decode_missed",
    "decode_node",
    "decode_probe",
    "decode_run",
    "decode_selection",
    "decode_span",
    "decode_summary",
    "encode_missed",
    "encode_node",
    "encode_probe",
    "encode_run",
    "encode_selection",
    "encode_span",
    "encode_summary",
]

ATTACHMENTS = EnumTable(Attachment, wire.Attachment, "ATTACHMENT")
RUN_STATES = EnumTable(RunState, wire.RunState, "RUN_STATE")
FORMATS = EnumTable(SnapshotFormat, wire.SnapshotFormat, "SNAPSHOT_FORMAT")

_LEASES_CAP = 100_000  # of one run


def encode_selection(selection: Selection) -> wire.Selection:
    """Encode which windows are meant."""
    return wire.Selection(
        nodes=selection.nodes,
        probes=[PROBES.encode(probe) for probe in selection.probes],
        paths=[PATHS.encode(path) for path in selection.paths],
        targets=selection.targets,
        run_id=selection.run_id,
    )


def decode_selection(message: wire.Selection) -> Selection:
    """Decode which windows are meant."""
    return Selection(
        nodes=tuple(name(node, "nodes") for node in capped(message.nodes, "nodes")),
        probes=tuple(PROBES.decode(probe, "probes") for probe in capped(message.probes, "probes")),
        paths=tuple(PATHS.decode(path, "paths") for path in capped(message.paths, "paths")),
        targets=tuple(text(target, "targets") for target in capped(message.targets, "targets")),
        run_id=name(message.run_id, "run_id") if message.HasField("run_id") else None,
    )


def encode_span(span: TimeRange) -> wire.TimeRange:
    """Encode a time range."""
    return wire.TimeRange(start_unix_ms=span.start_unix_ms, end_unix_ms=span.end_unix_ms)


def decode_span(message: wire.TimeRange) -> TimeRange:
    """Decode a time range."""
    return TimeRange(
        start_unix_ms=message.start_unix_ms if message.HasField("start_unix_ms") else None,
        end_unix_ms=message.end_unix_ms if message.HasField("end_unix_ms") else None,
    )


def encode_missed(missed: Missed) -> wire.Missed:
    """Encode how much a watcher missed."""
    return wire.Missed(count=missed.count)


def decode_missed(message: wire.Missed) -> Missed:
    """Decode how much a watcher missed."""
    return Missed(count=at_least(1, message.count, "count"))


def encode_node(status: NodeStatus) -> wire.NodeStatus:
    """Encode an endpoint's status."""
    return wire.NodeStatus(
        endpoint=encode_endpoint(status.endpoint),
        attachment=ATTACHMENTS.encode(status.attachment),
        version=status.version,
        start_id=status.start_id,
        numbered=status.numbered,
        stored=status.stored,
        pending=status.pending,
        lost=status.lost,
        probe_service_port=status.probe_service_port,
        environment=None if status.environment is None else encode_environment(status.environment),
    )


def decode_node(message: wire.NodeStatus) -> NodeStatus:
    """Decode an endpoint's status."""
    return NodeStatus(
        endpoint=within("endpoint", decode_endpoint, message.endpoint),
        attachment=ATTACHMENTS.decode(message.attachment, "attachment"),
        version=text(message.version, "version"),
        start_id=text(message.start_id, "start_id"),
        numbered=message.numbered if message.HasField("numbered") else None,
        stored=message.stored,
        pending=message.pending if message.HasField("pending") else None,
        lost=message.lost if message.HasField("lost") else None,
        probe_service_port=port(message.probe_service_port, "probe_service_port"),
        environment=within("environment", decode_environment, message.environment)
        if message.HasField("environment")
        else None,
    )


def encode_probe(status: ProbeStatus) -> wire.ProbeStatus:
    """Encode a probe instance's status."""
    return wire.ProbeStatus(
        instance=encode_instance(status.instance), windows=status.windows, last_end_unix_ms=status.last_end_unix_ms
    )


def decode_probe(message: wire.ProbeStatus) -> ProbeStatus:
    """Decode a probe instance's status."""
    return ProbeStatus(
        instance=within("instance", decode_instance, message.instance),
        windows=message.windows,
        last_end_unix_ms=message.last_end_unix_ms,
    )


def encode_summary(summary: Summary) -> wire.Summary:
    """Encode a summary."""
    return wire.Summary(
        source=encode_endpoint(summary.source),
        probe=PROBES.encode(summary.probe),
        target=encode_target(summary.target),
        direction=DIRECTIONS.encode(summary.direction),
        parameters=summary.parameters,
        metric=summary.metric,
        windows=summary.windows,
        seconds=summary.seconds,
        count=summary.count,
        rate=summary.rate,
        mean=summary.mean,
        quantiles=[wire.Quantile(q=q, value=value) for q, value in sorted(summary.quantiles.items())],
        flags=[wire.FlagCount(flag=FLAGS.encode(flag), windows=count) for flag, count in summary.flags.items()],
        facts=summary.facts,
        left_out=summary.left_out,
        deviation=summary.deviation,
    )


def decode_summary(message: wire.Summary) -> Summary:
    """Decode a summary. Its path is its target's."""
    target = within("target", decode_target, message.target)
    return Summary(
        source=within("source", decode_endpoint, message.source),
        probe=PROBES.decode(message.probe, "probe"),
        target=target,
        path=target.path if isinstance(target, EndpointTarget) else None,
        direction=DIRECTIONS.decode(message.direction, "direction"),
        parameters=texts(message.parameters, "parameters"),
        metric=name(message.metric, "metric"),
        windows=message.windows,
        seconds=finite(message.seconds, "seconds"),
        count=message.count,
        rate=finite(message.rate, "rate") if message.HasField("rate") else None,
        mean=finite(message.mean, "mean") if message.HasField("mean") else None,
        quantiles=dict(each("quantiles", _decode_quantile, capped(message.quantiles, "quantiles"))),
        flags={FLAGS.decode(entry.flag, "flags"): entry.windows for entry in capped(message.flags, "flags")},
        facts=texts(message.facts, "facts"),
        left_out=message.left_out,
        deviation=finite(message.deviation, "deviation") if message.HasField("deviation") else None,
    )


def _decode_quantile(message: wire.Quantile) -> tuple[float, float]:
    if not 0 < message.q < 1:
        raise WireError(f"q: {message.q} is not between 0 and 1")
    return message.q, finite(message.value, "value")


def encode_run(run: Run) -> wire.Run:
    """Encode a run."""
    return wire.Run(
        run_id=run.run_id,
        suite=run.suite,
        scale=run.scale,
        state=RUN_STATES.encode(run.state),
        started_unix_ms=run.started_unix_ms,
        ended_unix_ms=run.ended_unix_ms,
        cost=wire.Cost(
            seconds=run.cost.seconds,
            network_bytes=run.cost.network_bytes,
            disk_write_bytes=run.cost.disk_write_bytes,
        ),
        leases_total=run.leases_total,
        leases=[_encode_lease_record(record) for record in run.leases],
        detail=run.detail,
    )


def decode_run(message: wire.Run) -> Run:
    """Decode a run."""
    return Run(
        run_id=name(message.run_id, "run_id"),
        suite=name(message.suite, "suite"),
        scale=finite(message.scale, "scale"),
        state=RUN_STATES.decode(message.state, "state"),
        started_unix_ms=message.started_unix_ms,
        ended_unix_ms=message.ended_unix_ms if message.HasField("ended_unix_ms") else None,
        cost=Cost(
            seconds=finite(message.cost.seconds, "cost.seconds"),
            network_bytes=message.cost.network_bytes,
            disk_write_bytes=message.cost.disk_write_bytes,
        ),
        leases_total=message.leases_total,
        leases=each("leases", _decode_lease_record, capped(message.leases, "leases", _LEASES_CAP)),
        detail=text(message.detail, "detail"),
    )


def _encode_lease_record(record: LeaseRecord) -> wire.LeaseRecord:
    return wire.LeaseRecord(
        lease_id=record.lease_id,
        step=record.step,
        instance=encode_instance(record.instance),
        state=record.state,
        detail=record.detail,
        totals=record.totals,
    )


def _decode_lease_record(message: wire.LeaseRecord) -> LeaseRecord:
    return LeaseRecord(
        lease_id=name(message.lease_id, "lease_id"),
        step=name(message.step, "step"),
        instance=within("instance", decode_instance, message.instance),
        state=name(message.state, "state"),
        detail=text(message.detail, "detail"),
        totals=named(message.totals, "totals"),
    )
