"""Options of a verb out of a struct of settings: a flag for each field, described as the field is."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
import typer
from msgspec.inspect import (
    BoolType,
    Field,
    FloatType,
    IntType,
    LiteralType,
    Metadata,
    NoneType,
    StructType,
    UnionType,
    type_info,
)

__all__ = ["asked", "options_of"]

_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def options_of(kind: type[msgspec.Struct], panel: str) -> list[inspect.Parameter]:
    """Return a keyword-only parameter for each field of ``kind``, as typer reads them; not given is None."""
    info = type_info(kind)
    return [_option(field, panel) for field in info.fields] if isinstance(info, StructType) else []


def asked(values: Mapping[str, object]) -> dict[str, str]:
    """Return as text what was given; sizes may end in K, M, G or T (powers of 1024)."""
    return {name: _plain(name, value) for name, value in values.items() if value is not None}


def _plain(name: str, value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    number, unit = text[:-1], text[-1:].upper()
    if name.endswith("_bytes") and unit in _UNITS and number.isdecimal():
        return str(int(number) * _UNITS[unit])
    return text


def _option(field: Field, panel: str) -> inspect.Parameter:
    described, description = field.type, ""
    if isinstance(described, Metadata):
        description = str((described.extra_json_schema or {}).get("description", ""))
        described = described.type
    if isinstance(described, UnionType):  # with None: not given
        described = next(kind for kind in described.types if not isinstance(kind, NoneType))
    if isinstance(described, Metadata):
        described = described.type
    flag = "--" + field.name.replace("_", "-")
    text = f"{description[:1].upper()}{description[1:]} {_range(described, field.default)}"
    annotation: Any  # made here, for typer to read
    if isinstance(described, BoolType):
        annotation = Annotated[bool | None, typer.Option(flag, help=text, rich_help_panel=panel)]
    else:
        option = typer.Option(flag, help=text, metavar=_metavar(described), rich_help_panel=panel)
        annotation = Annotated[str | None, option]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(described: msgspec.inspect.Type) -> str:
    if isinstance(described, LiteralType):
        return "|".join(map(str, described.values))
    return "N" if isinstance(described, (IntType, FloatType)) else "TEXT"


def _range(described: msgspec.inspect.Type, default: object) -> str:
    bounds = ""
    if isinstance(described, (IntType, FloatType)) and described.ge is not None:
        bounds = f"from {described.ge:g}, " if described.le is None else f"{described.ge:.15g} to {described.le:.15g}, "
    return f"({bounds}default {_written(default)})"


def _written(default: object) -> str:
    if isinstance(default, float):
        return f"{default:g}"
    return "none" if default in (None, "") else str(default).lower()
