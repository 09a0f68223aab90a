"""One verb for each probe of the catalog: measured from here, by hand, its figures printed as they come."""

import inspect
import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from cvmprobe.analysis import summarize
from cvmprobe.cli.costs import COST_MEANING, cost_note, cost_of
from cvmprobe.cli.figures import figures_of_summaries
from cvmprobe.cli.flags import asked, options_of
from cvmprobe.cli.hand import PORT, KeyFileOption, KeyOption, address_of, read_key
from cvmprobe.cli.lines import WindowLines
from cvmprobe.cli.output import Format, FormatOption, Record, note, show
from cvmprobe.cli.probe import HELP
from cvmprobe.cli.prose import paragraphs
from cvmprobe.cli.records import summary_metric_record, summary_record, window_record
from cvmprobe.cli.tables import summary_table
from cvmprobe.cli.trial import Trial, run_trial
from cvmprobe.errors import PartialError, ProbeError, UsageError
from cvmprobe.model.endpoint import Endpoint, EndpointTarget, NodeTarget, PeerAddress, Role, Target, VolumeTarget
from cvmprobe.model.endpoint import Path as Way
from cvmprobe.model.window import Direction, Flag, Instance, Probe, Window
from cvmprobe.probes.catalog import CATALOG, prepare
from cvmprobe.probes.entry import Entry
from cvmprobe.probes.execution import Setup

__all__ = ["app"]

_PANEL: Final = "What is measured"
_DIRECTED: Final = frozenset({Probe.TCP_STREAM, Probe.UDP_STREAM, Probe.LOADED_RR})
_MAX_BYTES: Final = 10**12
_MAX_DISK_BYTES: Final = 10**11

app = typer.Typer(help=paragraphs(HELP), no_args_is_help=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """What is common to all probes; each field is an option."""

    duration: Annotated[
        float, typer.Option("--duration", "-t", min=0.01, max=86_400, help="Seconds, warm-up included.")
    ] = 10.0
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.01, max=3_600, help="Seconds between two lines.")
    ] = 1.0
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", min=0, help="End when so many bytes were sent, or written to a disk.")
    ] = _MAX_BYTES
    form: FormatOption = Format.TABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    """What network probes need besides."""

    key: KeyOption = None
    key_file: KeyFileOption = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """What probes of a stream can be asked besides."""

    direction: Annotated[Direction, typer.Option(help="Which way the payload goes, seen from here.")] = (
        Direction.FORWARD
    )


_Address = Annotated[str, typer.Argument(metavar="HOST[:PORT]", help=f"Where the responder is; default port {PORT}.")]
_Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where the disk is measured.")]


def _verb(entry: Entry) -> Callable[..., None]:
    """Return the verb of a probe: its target, what is common to all, and a flag for each of its parameters."""
    probe = entry.probe
    groups: list[type[Any]] = [_Frame]
    target = inspect.Parameter("target", inspect.Parameter.KEYWORD_ONLY, annotation=_Address)
    if probe is Probe.DISK:
        target = target.replace(annotation=_Directory)
    elif probe is not Probe.COMPUTE:
        groups += [_Peer, _Way] if probe in _DIRECTED else [_Peer]
    targets = [] if probe is Probe.COMPUTE else [target]

    def call(**values: Any) -> None:  # typer has checked them against the options
        given = [kind(**{field.name: values.pop(field.name) for field in fields(kind)}) for kind in groups]
        where = values.pop("target", None)
        _measure(probe, where, given, asked(values))

    options = [option for kind in groups for option in _options(kind, disk=probe is Probe.DISK)]
    signature = inspect.Signature([*targets, *options, *options_of(entry.parameters, _PANEL)])
    vars(call)["__signature__"] = signature  # where inspect, and so typer, looks first
    return call


def _options(kind: type[Any], *, disk: bool) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    defaults = {field.name: field.default for field in fields(kind)} | ({"max_bytes": _MAX_DISK_BYTES} if disk else {})
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name])
        for name in (field.name for field in fields(kind))
    ]


def _measure(probe: Probe, where: str | Path | None, given: list[object], parameters: Mapping[str, str]) -> None:
    frame = next(each for each in given if isinstance(each, _Frame))
    setup = _setup(probe, where, given, parameters)
    execution = prepare(setup)
    lines = WindowLines() if frame.form is Format.TABLE else None
    if lines:
        cap = f", at most {frame.max_bytes:,} bytes" if where else ""
        note(f"{probe} {where or ''} for {frame.duration:g} s{cap}; Ctrl-C ends it".replace("  ", " "))
    trial = run_trial(execution, lines.write if lines else lambda _: None)
    _report(setup, str(where or ""), trial, frame.form)
    raise typer.Exit(_exit_code(trial))


def _setup(probe: Probe, where: str | Path | None, given: list[object], parameters: Mapping[str, str]) -> Setup:
    frame = next(each for each in given if isinstance(each, _Frame))
    peer, key, session = None, b"", secrets.token_bytes(16)
    for each in given:
        if isinstance(each, _Peer):
            peer = address_of(str(where))
            key = _key(each)
    direction = next((each.direction for each in given if isinstance(each, _Way)), Direction.NONE)
    if peer is not None and direction is Direction.NONE:
        direction = Direction.FORWARD
    instance = Instance(
        assignment_id=session.hex(),
        probe=probe,
        source=Endpoint(platform.node(), Role.POD),
        target=_target(where, peer),
        direction=direction,
        repeat=0,
        parameters=parameters,
    )
    return Setup(
        instance=instance,
        interval_ms=round(frame.interval * 1_000),
        duration_ms=round(frame.duration * 1_000),
        max_bytes=frame.max_bytes,
        peer=peer,
        key=key,
        volume=_directory(where) if isinstance(where, Path) else None,
    )


def _key(peer: _Peer) -> bytes:
    key = read_key(peer.key, peer.key_file)
    if key is None:
        raise UsageError("no key: give --key, --key-file or CVMPROBE_KEY, the same as the responder's")
    return key


def _directory(where: Path) -> Path:
    if not where.is_dir():
        raise UsageError(f"{where} is not a directory")
    return where.resolve()


def _target(where: str | Path | None, peer: PeerAddress | None) -> Target:
    if peer is None:
        return NodeTarget() if where is None else VolumeTarget(str(where))
    return EndpointTarget(Endpoint(str(peer), Role.POD), Way.INTER_NODE)  # by hand nobody knows how they are joined


def _report(setup: Setup, where: str, trial: Trial, form: Format) -> None:
    """Print what is there, whatever ended it."""
    result, instance = trial.result, setup.instance
    windows = result.windows if trial.interrupted is None else [_uncut(window) for window in result.windows[:-1]]
    summaries = summarize(windows)
    record: Record = {
        "probe": instance.probe.value,
        "target": where,
        "direction": instance.direction.value,
        "parameters": dict(instance.parameters),
        "duration_ms": setup.duration_ms,
        "interval_ms": setup.interval_ms,
        "interrupted": trial.interrupted is not None,
        "error": None if result.error is None else str(result.error),
        "metrics": [_bare(summary_record(row)) for row in summaries],
        "totals": dict(result.totals),
        "windows": [_bare(window_record(window)) for window in result.windows],
    }
    flat = [_bare(summary_metric_record(row)) for row in summaries]
    if form is not Format.TABLE:
        show(form, "", record, flat)
        return
    for key, figures in figures_of_summaries(summaries).items():
        note("")
        show(form, summary_table(key, figures), record, flat)
    if (cost := cost_of(result.totals)) is not None:
        note(f"{cost_note(cost)}\n{COST_MEANING}")


def _uncut(window: Window) -> Window:
    """Let a window before an interrupt count: what this end saw in it is whole, the responder only never told."""
    return replace(window, flags=window.flags - {Flag.CUT})


def _bare(record: Record) -> Record:
    """Leave out what is said once, or not known, where a person measures by hand."""
    said = ("source", "probe", "target", "path", "direction", "repeat", "parameters", "assignment_id")
    return {name: value for name, value in record.items() if name not in said}


def _exit_code(trial: Trial) -> int:
    result = trial.result
    if result.error is not None:
        note(f"cvmprobe: {result.error}")
        return result.error.exit_code if not result.windows else PartialError.exit_code
    if trial.interrupted is not None:
        note("interrupted: these are the figures of this end, up to the last whole interval")
        return 128 + trial.interrupted
    if any(Flag.CUT in window.flags for window in result.windows):
        note("cvmprobe: the two ends did not come to the same totals: the responder did not tell its own in time")
        return PartialError.exit_code
    return 0 if result.windows else ProbeError.exit_code


for _entry in CATALOG.values():
    app.command(_entry.probe.value.replace("_", "-"), help=_entry.title + ".")(_verb(_entry))
