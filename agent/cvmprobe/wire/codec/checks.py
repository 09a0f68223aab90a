"""What all that comes from outside must pass: caps and ranges. A WireError begins with the path of the field."""

import math
from collections.abc import Callable, Iterable, Mapping, Sized
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from cvmprobe.errors import WireError

__all__ = [
    "ENTRIES_CAP",
    "NAME_CAP",
    "TEXTS_CAP",
    "TEXT_CAP",
    "EnumTable",
    "at_least",
    "at_most",
    "capped",
    "each",
    "finite",
    "name",
    "named",
    "port",
    "sequence",
    "text",
    "texts",
    "unix_ms",
    "within",
]

NAME_CAP = 256  # characters of a name or an id
TEXT_CAP = 65_536  # characters of a line for people, or of a fact's value
TEXTS_CAP = 65_536  # characters of a mapping from names to text
ENTRIES_CAP = 1024  # entries of a mapping or a small list
_SEQ_CAP = 1 << 53
_UNIX_MS_CAP = 253_370_764_800_000  # the year 9999, with room for every zone
_REPLACEMENT = "\ufffd"

M = TypeVar("M")
T = TypeVar("T")
N = TypeVar("N", int, float)
S = TypeVar("S", bound=Sized)
E = TypeVar("E", bound=StrEnum)
V = TypeVar("V", bound=int)
V_co = TypeVar("V_co", bound=int, covariant=True)


class _WireEnum(Protocol[V_co]):
    """The part of a generated enum that a table is made from."""

    def Value(self, name: str) -> V_co:  # noqa: N802 -- protobuf names it so
        """Give the number of ``name``."""
        ...


class EnumTable(Generic[E, V]):
    """Both ways between an enum of the model and its twin on the wire, whose names are ``PREFIX_NAME``."""

    def __init__(self, model: type[E], wire: _WireEnum[V], prefix: str) -> None:
        self._numbers: dict[E, V] = {member: wire.Value(f"{prefix}_{member.name}") for member in model}
        self._members: dict[int, E] = {number: member for member, number in self._numbers.items()}

    def encode(self, member: E) -> V:
        """Give the number of ``member``."""
        return self._numbers[member]

    def decode(self, number: int, field: str) -> E:
        """Give the member with ``number``; an unset or unknown one is refused."""
        member = self._members.get(number)
        if member is None:
            raise WireError(f"{field}: unknown value {number}; known are {', '.join(self._members.values())}")
        return member


def within(field: str, decode: Callable[[M], T], message: M) -> T:
    """Decode a part of a message; what it refuses is named below ``field``."""
    try:
        return decode(message)
    except WireError as error:
        raise WireError(f"{field}.{error}") from None


def each(field: str, decode: Callable[[M], T], messages: Iterable[M]) -> tuple[T, ...]:
    """Decode every entry of a repeated field; what one refuses is named with its index."""
    return tuple(within(f"{field}[{place}]", decode, message) for place, message in enumerate(messages))


def capped(sized: S, field: str, cap: int = ENTRIES_CAP) -> S:
    """Refuse what has more than ``cap`` entries or bytes."""
    if len(sized) > cap:
        raise WireError(f"{field}: {len(sized)} entries, at most {cap} are taken")
    return sized


def text(value: str, field: str, cap: int = TEXT_CAP) -> str:
    """Take one line; refuse more than ``cap`` characters. What would move a cursor or begin a line is made visible."""
    if len(value) > cap:
        raise WireError(f"{field}: {len(value)} characters, at most {cap} are taken")
    if value.isprintable():
        return value
    return "".join(sign if sign.isprintable() or sign == "\t" else _REPLACEMENT for sign in value)


def name(value: str, field: str) -> str:
    """Refuse a name or id that is empty or long, or cannot be printed: it stands in logs, tables and files."""
    if not value:
        raise WireError(f"{field}: is empty")
    if not value.isprintable():
        raise WireError(f"{field}: {value[:NAME_CAP]!a} holds a sign that cannot be printed")
    return text(value, field, NAME_CAP)


def named(mapping: Mapping[str, T], field: str) -> dict[str, T]:
    """Take a mapping from names; refuse too many, and a bad name."""
    capped(mapping, field)
    for key in mapping:
        name(key, f"{field} key")
    return dict(mapping)


def texts(mapping: Mapping[str, str], field: str, cap: int = TEXTS_CAP) -> dict[str, str]:
    """Take a mapping from names to text; refuse too many, a bad name, and more than ``cap`` characters in all."""
    taken = {key: text(value, f"{field}[{key}]") for key, value in named(mapping, field).items()}
    size = sum(len(key) + len(value) for key, value in taken.items())
    if size > cap:
        raise WireError(f"{field}: {size} characters, at most {cap} are taken")
    return taken


def at_least(least: N, value: N, field: str) -> N:
    """Refuse a number below ``least``."""
    if value < least:
        raise WireError(f"{field}: {value} is below {least}")
    return value


def at_most(most: N, value: N, field: str) -> N:
    """Refuse a number above ``most``."""
    if value > most:
        raise WireError(f"{field}: {value} is above {most}")
    return value


def finite(value: float, field: str) -> float:
    """Refuse NaN, the infinities and negative numbers."""
    if not math.isfinite(value) or value < 0:
        raise WireError(f"{field}: {value} is no finite number of at least 0")
    return value


def sequence(value: int, field: str) -> int:
    """Refuse a number of a batch that none of us will ever give out, and that a store could not count on from."""
    return at_most(_SEQ_CAP, value, field)


def unix_ms(value: int, field: str) -> int:
    """Refuse a wall time that no calendar shows."""
    return at_most(_UNIX_MS_CAP, value, field)


def port(value: int, field: str) -> int:
    """Refuse what is no port; 0 stands for none."""
    return at_most(65_535, value, field)
