"""Facts as records: the keys people and programs see in json, yaml and csv; units stand in the names."""

from cvmprobe.analysis import mean, quantiles
from cvmprobe.analysis.diagnosis import environment_record
from cvmprobe.cli.output import Record
from cvmprobe.model.delivery import Gap, Hello
from cvmprobe.model.endpoint import Target
from cvmprobe.model.histogram import Histogram
from cvmprobe.model.query import NodeStatus, ProbeStatus, Summary
from cvmprobe.model.run import LeaseRecord, Run
from cvmprobe.model.window import Instance, Window

__all__ = [
    "METRIC_KEYS",
    "gap_record",
    "hello_record",
    "instance_record",
    "metric_records",
    "node_record",
    "probe_record",
    "run_record",
    "summary_metric_record",
    "summary_record",
    "window_record",
]

_QUANTILES = (0.5, 0.9, 0.99)
_WINDOW_KEYS = ("end_unix_ms", "duration_ns", "phase", "source", "probe", "target", "path", "direction", "repeat")
METRIC_KEYS = (*_WINDOW_KEYS, "assignment_id", "flags", "metric", "value", "count", "mean", "p50", "p90", "p99")


def instance_record(instance: Instance) -> dict[str, object]:
    """Return who measured what, aimed at which target."""
    return {
        "source": str(instance.source),
        "probe": instance.probe.value,
        **_target(instance.target, instance.path),
        "direction": instance.direction.value,
        "repeat": instance.repeat,
        "parameters": dict(instance.parameters),
        "assignment_id": instance.assignment_id,
    }


def window_record(window: Window) -> Record:
    """Return a whole window; histograms keep their buckets."""
    return {
        "end_unix_ms": window.end_unix_ms,
        "duration_ns": window.duration_ns,
        "phase": window.phase.value,
        **instance_record(window.instance),
        "counters": dict(window.counters),
        "histograms": {name: _histogram(histogram) for name, histogram in window.histograms.items()},
        "facts": dict(window.facts),
        "flags": sorted(flag.value for flag in window.flags),
    }


def metric_records(window: Window) -> list[Record]:
    """Return a window as flat rows, one per counter and histogram, with the keys of METRIC_KEYS."""
    whole = window_record(window)
    shared = {key: whole[key] for key in (*_WINDOW_KEYS, "assignment_id", "flags")}
    rows: list[Record] = [{**shared, "metric": name, "value": value} for name, value in window.counters.items()]
    rows += [{**shared, "metric": name, **_shape(histogram)} for name, histogram in window.histograms.items()]
    return rows


def node_record(node: NodeStatus) -> Record:
    """Return an endpoint, the accounts of its stream and the facts of its node."""
    return {
        "endpoint": str(node.endpoint),
        "node": node.endpoint.node,
        "role": node.endpoint.role.value,
        "attachment": node.attachment.value,
        "version": node.version,
        "start_id": node.start_id,
        "numbered_batches": node.numbered,
        "stored_batches": node.stored,
        "pending_batches": node.pending,
        "lost_batches": node.lost,
        "probe_service_port": node.probe_service_port,
        "environment": None if node.environment is None else environment_record(node.environment),
    }


def hello_record(hello: Hello) -> Record:
    """Return how an agent introduced itself."""
    return {
        "endpoint": str(hello.endpoint),
        "version": hello.version,
        "boot_id": hello.boot_id,
        "start_id": hello.start_id,
        "environment": environment_record(hello.environment),
    }


def gap_record(gap: Gap) -> Record:
    """Return what is missing; None where nobody can know how much."""
    return {
        "endpoint": str(gap.stream.endpoint),
        "start_id": gap.stream.start_id,
        "first_seq": gap.first_seq,
        "last_seq": gap.last_seq,
        "lost_batches": gap.lost,
        "reason": gap.reason,
        "since_unix_ms": gap.since_unix_ms,
    }


def probe_record(status: ProbeStatus) -> Record:
    """Return a probe instance and how far it is."""
    return {
        **instance_record(status.instance),
        "windows": status.windows,
        "last_end_unix_ms": status.last_end_unix_ms,
    }


def run_record(run: Run) -> Record:
    """Return a run with its cost and its leases."""
    return {
        "run_id": run.run_id,
        "suite": run.suite,
        "scale": run.scale,
        "state": run.state.value,
        "detail": run.detail,
        "started_unix_ms": run.started_unix_ms,
        "ended_unix_ms": run.ended_unix_ms,
        "leases_total": run.leases_total,
        "leases_ended": run.leases_ended,
        "cost": {
            "seconds": run.cost.seconds,
            "network_bytes": run.cost.network_bytes,
            "disk_write_bytes": run.cost.disk_write_bytes,
        },
        "leases": [_lease(lease) for lease in run.leases],
    }


def summary_record(summary: Summary) -> Record:
    """Return one metric of one kind of measurement; quantiles map q to nanoseconds."""
    return {
        "source": str(summary.source),
        "probe": summary.probe.value,
        **_target(summary.target, summary.path),
        "direction": summary.direction.value,
        "parameters": dict(summary.parameters),
        "metric": summary.metric,
        "windows": summary.windows,
        "left_out_windows": summary.left_out,
        "seconds": summary.seconds,
        "count": summary.count,
        "rate_per_s": summary.rate,
        "mean": summary.mean,
        "quantiles": {f"{q:g}": value for q, value in summary.quantiles.items()},
        "flags": {flag.value: count for flag, count in summary.flags.items()},
        "facts": dict(summary.facts),
    }


def summary_metric_record(summary: Summary) -> Record:
    """Return a summary as one flat row of csv, whose keys do not depend on what was measured."""
    whole = dict(summary_record(summary))
    for key in ("parameters", "flags", "facts", "quantiles"):
        del whole[key]
    parameters = [f"{name}={value}" for name, value in summary.parameters.items()]
    flags = [f"{flag.value}={count}" for flag, count in summary.flags.items()]
    points = {f"p{q * 100:g}": summary.quantiles.get(q) for q in _QUANTILES}
    return {**whole, **points, "parameters": parameters, "flags": flags}


def _target(target: Target, path: object) -> dict[str, object]:
    return {"target": str(target), "path": None if path is None else str(path)}


def _histogram(histogram: Histogram) -> dict[str, object]:
    return {
        **_shape(histogram),
        "schema": histogram.schema,
        "zero": histogram.zero,
        "overflow": histogram.overflow,
        "sum": histogram.sum,
        "minimum": histogram.minimum,
        "maximum": histogram.maximum,
        "buckets": {str(index): count for index, count in histogram.buckets.items()},
    }


def _shape(histogram: Histogram) -> dict[str, object]:
    known = quantiles(histogram, _QUANTILES)
    points = {f"p{q * 100:g}": known.get(q) for q in _QUANTILES}
    return {"count": histogram.count, "mean": mean(histogram), **points}


def _lease(lease: LeaseRecord) -> dict[str, object]:
    return {
        "lease_id": lease.lease_id,
        "step": lease.step,
        **instance_record(lease.instance),
        "state": lease.state,
        "detail": lease.detail,
        "totals": dict(lease.totals),
    }
