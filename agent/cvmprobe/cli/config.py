"""cvmprobe config: which settings are in force, and why."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cvmprobe.cli.output import DASH, Column, Format, FormatOption, Record, show, tabulate
from cvmprobe.config.agent import AgentSettings
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.config.load import Setting, explain

__all__ = ["Program", "app", "explain_settings"]

app = typer.Typer(help="Look at settings.", no_args_is_help=True)


class Program(StrEnum):
    """A program that has settings."""

    AGENT = "agent"
    COLLECTOR = "collector"


_STRUCTS: dict[Program, type[msgspec.Struct]] = {
    Program.AGENT: AgentSettings,
    Program.COLLECTOR: CollectorSettings,
}
_COLUMNS: tuple[Column[Setting], ...] = (
    Column("setting", lambda setting: setting.name),
    Column("value", lambda setting: _text(setting.value)),
    Column("source", lambda setting: setting.source),
    Column("what it is for", lambda setting: setting.doc),
)


@app.command("explain")
def explain_settings(
    program: Annotated[Program | None, typer.Argument(help="Whose settings; default: those of all programs.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Configuration file (TOML) to take into account.")
    ] = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Print every setting with its value, where that comes from, and what it is for.

    Secrets are masked. A setting can stand in the file, as [agent] drain_ms = 5000, or in the
    environment, as CVMPROBE_AGENT_DRAIN_MS=5000, which wins.

    Example: cvmprobe config explain agent --config agent.toml
    """
    asked = Program if program is None else (program,)
    settings = [
        setting for each in asked for setting in explain(_STRUCTS[each], each.value, file=config, environ=os.environ)
    ]
    show(form, tabulate(_COLUMNS, settings), [_record(setting) for setting in settings])


def _record(setting: Setting) -> Record:
    value = msgspec.to_builtins(setting.value, enc_hook=str)
    return {"name": setting.name, "value": value, "source": setting.source, "doc": setting.doc}


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={entry}" for key, entry in value.items()) or DASH
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value)) or DASH
    return DASH if value in (None, "") else str(value)
