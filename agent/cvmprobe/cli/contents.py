"""What is in a snapshot, printed."""

from pathlib import Path

from rich.console import Group
from rich.text import Text

from cvmprobe.analysis import summarize
from cvmprobe.analysis.pools import disagreements
from cvmprobe.cli.figures import figures_of_summaries
from cvmprobe.cli.labelled import label_records, labelled
from cvmprobe.cli.output import Format, show
from cvmprobe.cli.records import gap_record, hello_record, run_record, summary_metric_record, summary_record
from cvmprobe.cli.tables import tables
from cvmprobe.cli.windows import clock
from cvmprobe.model.delivery import Gap
from cvmprobe.store.manifest import Manifest
from cvmprobe.store.snapshot import read_snapshot

__all__ = ["show_contents"]


def show_contents(file: Path, form: Format) -> None:
    """Print what the snapshot ``file`` holds. Raises StoreError when it is none, or damaged."""
    snapshot = read_snapshot(file)
    manifest = snapshot.manifest
    summaries = summarize(snapshot.windows())
    whole = {
        "snapshot": str(file),
        "cvmprobe_version": manifest.versions.get("cvmprobe"),
        "created_unix_ms": manifest.created_unix_ms,
        "start_unix_ms": manifest.time_range.start_unix_ms,
        "end_unix_ms": manifest.time_range.end_unix_ms,
        "nodes": [hello_record(hello) for hello in manifest.nodes.values()],
        "gaps": [gap_record(gap) for gap in manifest.gaps],
        "samples_lost": manifest.samples_lost,
        "runs": [run_record(run) for run in manifest.runs],
        "labels": label_records(manifest.runs),
        "summaries": [summary_record(summary) for summary in summaries],
    }
    figures = tables(figures_of_summaries(summaries), manifest.runs)
    table = Group(Text(_title(manifest)), Text(), figures, *labelled(summaries, manifest.runs))
    show(form, table, whole, [summary_metric_record(summary) for summary in summaries])


def _title(manifest: Manifest) -> str:
    """Say in a few lines what a snapshot is of, and what is missing in it."""
    runs = [f"run {run.run_id} of suite {run.suite}, scale {run.scale:g}, {run.state}" for run in manifest.runs]
    nodes = [
        f"{hello.endpoint}: kernel {hello.environment.value('kernel') or 'unknown'}, TEE {hello.environment.tee.kind}"
        for hello in manifest.nodes.values()
    ]
    unlike = disagreements({hello.endpoint.node: hello.environment for hello in manifest.nodes.values()})
    span = (
        f"windows that end from {clock(manifest.time_range.start_unix_ms)} to {clock(manifest.time_range.end_unix_ms)}"
    )
    gaps = [f"missing: {gap.stream.endpoint}: {_lost(gap)} batches: {gap.reason}" for gap in manifest.gaps]
    return "\n".join([*runs, span, *nodes, *unlike, *gaps])


def _lost(gap: Gap) -> str:
    return "an unknown number of" if gap.lost is None else str(gap.lost)
