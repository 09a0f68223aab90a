"""Suites by name, out of the TOML files beside this one.

A ``[[step]]`` names its paths or its volumes, or says ``node = true``; each of them becomes one ``model.Step`` of the
same name.
"""

import tomllib
from importlib import resources

import msgspec

from cvmprobe.errors import UsageError
from cvmprobe.model.endpoint import Path
from cvmprobe.model.run import Step, Suite
from cvmprobe.model.window import Direction, Probe

__all__ = ["load_suite", "parse_suite", "suite_names"]


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    probe: Probe
    duration_ms: int
    direction: Direction = Direction.NONE
    paths: tuple[Path, ...] = ()
    volumes: tuple[str, ...] = ()
    node: bool = False
    raw_samples: bool = False
    stand_in: Path | None = None
    label: str = ""
    really: str = ""
    parameters: dict[str, str | int] = {}

    def __post_init__(self) -> None:
        if bool(self.paths) + bool(self.volumes) + self.node != 1:
            raise ValueError(f"step {self.name} needs either paths or volumes or node = true")
        if self.stand_in and not self.paths:
            raise ValueError(f"step {self.name} has no path that {self.stand_in} could stand in for")
        if bool(self.label) != bool(self.really):
            raise ValueError(f"step {self.name} needs both or neither: its label, and what it really is")
        if self.duration_ms <= 0:
            raise ValueError(f"step {self.name}: duration_ms must be above 0, but is {self.duration_ms}")

    def steps(self) -> list[Step]:
        if self.node:
            return [self._step(None, None)]
        return [self._step(path, None) for path in self.paths] + [self._step(None, volume) for volume in self.volumes]

    def _step(self, path: Path | None, volume: str | None) -> Step:
        return Step(
            name=self.name,
            probe=self.probe,
            direction=self.direction,
            duration_ms=self.duration_ms,
            parameters={name: str(value) for name, value in self.parameters.items()},
            path=path,
            volume=volume,
            raw_samples=self.raw_samples,
            stand_in=self.stand_in,
            label=self.label,
            really=self.really,
        )


class _Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    interval_ms: int
    repeats: int
    step: tuple[_Step, ...]


def suite_names() -> list[str]:
    """Names of all suites, sorted."""
    files = (file.name for file in resources.files("cvmprobe.suites").iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """Return the suite called ``name``. UsageError names those there are."""
    if name not in suite_names():
        raise UsageError(f"there is no suite {name!r}; there are: {', '.join(suite_names())}")
    return parse_suite(name, (resources.files("cvmprobe.suites") / f"{name}.toml").read_text(encoding="utf-8"))


def parse_suite(name: str, text: str) -> Suite:
    """Return the suite a TOML document describes. UsageError says what is wrong with it."""
    try:
        data = msgspec.convert(tomllib.loads(text), _Suite)
    except ValueError as error:  # not TOML, or not a suite
        raise UsageError(f"suite {name}: {error}") from error
    steps = tuple(step for entry in data.step for step in entry.steps())
    return Suite(name, data.title, data.interval_ms, data.repeats, steps)
