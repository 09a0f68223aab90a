"""Settings of one program: defaults < file < environment < flags, checked once, with the source of every value.

A program's settings are one frozen ``msgspec.Struct``, whose fields may again be Structs::

    class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
        collector: Annotated[str, Meta(description="host:port the agent dials")]
        budgets: Budgets = Budgets()

    file          [agent]  collector = "10.0.0.1:7443"      [agent.budgets]  disk_bytes = 0
    environment   CVMPROBE_AGENT_COLLECTOR=10.0.0.1:7443    CVMPROBE_AGENT_BUDGETS_DISK_BYTES=0
    flags         {"collector": "10.0.0.1:7443"}            {"budgets.disk_bytes": 0}

In the environment a list is ``a,b`` and a table is ``x=1,y=2``. One file may hold the tables of several programs.
"""

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec

from cvmprobe.errors import ConfigError

__all__ = ["SECTIONS", "Secret", "Setting", "explain", "load"]

SECTIONS: Final = ("agent", "collector")
Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
"""The type of a setting whose value is never shown."""

_MASK: Final = "********"
# Kubernetes injects such variables for a Service called cvmprobe-<section>; they are not ours.
_SERVICE_LINK: Final = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_T = TypeVar("_T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it is in force. ``value`` is masked where it is secret."""

    name: str
    value: object
    source: str  # "default", "required", "flag", "environment NAME" or the file
    doc: str


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One setting as it is declared."""

    name: str  # dotted, below the section
    type: Any  # an annotation as msgspec.convert takes it
    default: object  # msgspec.NODEFAULT: must be given
    doc: str
    secret: bool


@dataclass(frozen=True, slots=True)
class _Given:
    """A value somebody gave, before it is checked."""

    value: object
    source: str
    strict: bool  # a file has types; the environment and flags are text


def load(
    struct: type[_T],
    section: str,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> _T:
    """Return the settings of ``section``. A flag that is None was not given.

    Raises ConfigError naming the source, the key and the value; for an unknown key also the nearest known one.
    """
    leaves = tuple(_leaves(struct))
    values: dict[str, object] = {}
    for leaf, value, _ in _resolve(leaves, section, file, environ or {}, flags or {}):
        if value is msgspec.NODEFAULT:
            variable = _variable(section, leaf.name)
            raise ConfigError(f"{section}.{leaf.name} is not set: give it in the configuration file or as {variable}")
        values[leaf.name] = value
    return _build(struct, section, values)


def explain(
    struct: type[msgspec.Struct],
    section: str,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> list[Setting]:
    """Return every setting of ``section`` with its value, where that came from, and what it is for.

    One that must be set and is not has the value None and the source ``required``.
    """
    leaves = tuple(_leaves(struct))
    resolved = list(_resolve(leaves, section, file, environ or {}, flags or {}))
    if all(value is not msgspec.NODEFAULT for _, value, _ in resolved):
        _build(struct, section, {leaf.name: value for leaf, value, _ in resolved})
    return [
        Setting(f"{section}.{leaf.name}", _shown(leaf, value), source, leaf.doc) for leaf, value, source in resolved
    ]


def _shown(leaf: _Leaf, value: object) -> object:
    if value is msgspec.NODEFAULT:
        return None
    return _MASK if leaf.secret and value else value


def _leaves(struct: type[msgspec.Struct], prefix: str = "", base: object = None) -> Iterator[_Leaf]:
    """Flatten a Struct; ``base`` is the default instance of the whole where there is one."""
    for field in msgspec.structs.fields(struct):
        name = f"{prefix}{field.name}"
        default = _default(field) if base is None else getattr(base, field.name)
        plain, notes = _strip(field.type)
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            yield from _leaves(plain, f"{name}.", None if default is msgspec.NODEFAULT else default)
            continue
        doc = next((note.description for note in notes if note.description), "")
        secret = any((note.extra or {}).get("secret") for note in notes)
        yield _Leaf(name, field.type, default, doc, secret)


def _strip(annotation: Any) -> tuple[Any, list[msgspec.Meta]]:
    """Split an annotation into the bare type and its notes, outermost last."""
    notes: list[msgspec.Meta] = []
    while typing.get_origin(annotation) is Annotated:
        annotation, *found = typing.get_args(annotation)
        notes += [note for note in found if isinstance(note, msgspec.Meta)]
    return annotation, notes[::-1]


def _default(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _resolve(
    leaves: Sequence[_Leaf],
    section: str,
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
) -> Iterator[tuple[_Leaf, object, str]]:
    """Yield each leaf with its checked value and the source that won; NODEFAULT where it must be given and is not."""
    layers = (
        _from_flags(flags, leaves),
        _from_environment(environ, section, leaves),
        _from_file(file, section, leaves),
    )
    for leaf in leaves:
        given = next((layer[leaf.name] for layer in layers if leaf.name in layer), None)
        if given is not None:
            yield leaf, _convert(given, leaf, section), given.source
        else:
            yield leaf, leaf.default, "required" if leaf.default is msgspec.NODEFAULT else "default"


def _from_flags(flags: Mapping[str, object], leaves: Sequence[_Leaf]) -> dict[str, _Given]:
    given = {name: _Given(value, "flag", strict=False) for name, value in flags.items() if value is not None}
    for name in given:
        _refuse_unknown(name, [leaf.name for leaf in leaves], "flags", "setting")
    return given


def _from_environment(environ: Mapping[str, str], section: str, leaves: Sequence[_Leaf]) -> dict[str, _Given]:
    known = {_variable(section, leaf.name): leaf for leaf in leaves}
    given: dict[str, _Given] = {}
    prefix = _variable(section, "")
    for variable, text in environ.items():
        if not variable.startswith(prefix):
            continue
        leaf = known.get(variable)
        if leaf is not None:
            given[leaf.name] = _Given(_split(text, leaf), f"environment {variable}", strict=False)
        elif not _SERVICE_LINK.fullmatch(variable.removeprefix(prefix)):
            _refuse_unknown(variable, known, "environment", "variable")
    return given


def _from_file(file: Path | None, section: str, leaves: Sequence[_Leaf]) -> dict[str, _Given]:
    if file is None:
        return {}
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration file {file}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{file} is not TOML: {error}") from error
    for table in document:
        _refuse_unknown(table, SECTIONS, str(file), "table")
    names = [leaf.name for leaf in leaves]
    given: dict[str, _Given] = {}
    for name, value in _flatten(document.get(section, {}), names, f"{file}: {section}"):
        _refuse_unknown(name, names, str(file), f"key in [{section}]")
        given[name] = _Given(value, str(file), strict=True)
    return given


def _flatten(table: object, names: Iterable[str], where: str, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted keys of a table, down to the depth at which they name settings."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table, but is {table!r}")
    for key, value in table.items():
        name = f"{prefix}{key}"
        if any(known.startswith(f"{name}.") for known in names):
            yield from _flatten(value, names, f"{where}.{key}", f"{name}.")
        else:
            yield name, value


def _refuse_unknown(name: str, known: Iterable[str], where: str, kind: str) -> None:
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names)}"
    raise ConfigError(f"{where}: unknown {kind} {name!r}; {hint}")


def _variable(section: str, name: str) -> str:
    return f"CVMPROBE_{section}_{name.replace('.', '_')}".upper()


def _split(text: str, leaf: _Leaf) -> object:
    """Turn the text of a variable into a list or a table where the setting is one."""
    kinds = {_origin(branch) for branch in _branches(leaf.type)}
    if text and kinds & {tuple, list, frozenset, set}:
        return [part.strip() for part in text.split(",")]
    if kinds & {dict}:
        return {key.strip(): value for key, _, value in (part.partition("=") for part in text.split(",") if part)}
    return [] if kinds & {tuple, list, frozenset, set} else text


def _branches(annotation: Any) -> tuple[Any, ...]:
    plain, _ = _strip(annotation)
    return typing.get_args(plain) if typing.get_origin(plain) in (typing.Union, types.UnionType) else (plain,)


def _origin(annotation: Any) -> Any:
    plain, _ = _strip(annotation)
    return typing.get_origin(plain) or plain


def _convert(given: _Given, leaf: _Leaf, section: str) -> object:
    try:
        return msgspec.convert(given.value, leaf.type, strict=given.strict, dec_hook=_path)
    except msgspec.ValidationError as error:
        shown = _MASK if leaf.secret else repr(given.value)
        raise ConfigError(f"{given.source}: {section}.{leaf.name} = {shown}: {_plain(error)}") from error


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def _plain(error: msgspec.ValidationError) -> str:
    return str(error).replace("`", "").replace(" - at $", " at ").removesuffix(" at ").lower()


def _build(struct: type[_T], section: str, values: Mapping[str, object]) -> _T:
    arguments: dict[str, object] = {}
    for field in msgspec.structs.fields(struct):
        plain, _ = _strip(field.type)
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            below = {
                name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{field.name}.")
            }
            arguments[field.name] = _build(plain, f"{section}.{field.name}", below)
        else:
            arguments[field.name] = values[field.name]
    try:
        return struct(**arguments)
    except ValueError as error:  # a Struct's own __post_init__
        raise ConfigError(f"{section}: {error}") from error
