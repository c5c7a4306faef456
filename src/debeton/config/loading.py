"""The loading of a configuration: files, overrides, implied settings and the hash of its identity.

fastargs declares the settings. On its own it ignores unknown keys, reads "False" as true, lets environment variables
override the command line, accepts abbreviated flags and ends an invalid run with status 0. `load` closes these traps:
whatever is wrong is a UsageError that names the key, the place where it was given and the nearest known key.

Order: command line > later --config-file > earlier > default. Not set is None here, and null in YAML and on the
command line.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from debeton.config.checkers import OrNull
from debeton.config.identity import run_identity
from debeton.config.old_names import OLD_NAMES, without_leftovers, without_old_names
from debeton.config.section import (
    Setting,
    check_value,
    declared,
    hand_to_fastargs,
    nearest_key,
    section_name,
    setting_key,
)
from debeton.config.sections import Dist, Loader, Logging, Model, Resolution, Training
from debeton.config.sections_data import Data, GroupSource, Spurious, Synthetic
from debeton.config.yaml_files import read_mapping
from debeton.system.errors import UsageError, nearest, unknown_names

S = TypeVar("S")

COMMAND_LINE = "the command line"
# Settings that the config.yaml of every version has, and that a person has no reason to give all at once.
IN_EVERY_RUN = ("logging.tensorboard", "logging.wandb", "logging.progress")


@dataclass(frozen=True)
class Config:
    """The resolved configuration: `config.training.lr`, `config.section(JttSettings).upweight`, `config["jtt.epochs"]`.

    values: every declared setting by its dotted key.
    """

    values: Mapping[str, Any]
    _sections: dict[type[Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def section(self, cls: type[S]) -> S:
        """Return the settings of a section as its dataclass, which `debeton.config.section` has declared."""
        if cls not in self._sections:
            name = section_name(cls)
            keys = {one.name: f"{name}.{setting_key(one)}" for one in fields(cls)}  # type: ignore[arg-type]
            if missing := [key for key in keys.values() if key not in self.values]:
                raise UsageError(
                    f"this configuration has no {missing[0]}: it was loaded before section '{name}' was declared; "
                    f"import {cls.__module__} before the configuration is loaded"
                )
            self._sections[cls] = cls(**{one: self.values[key] for one, key in keys.items()})
        return self._sections[cls]  # type: ignore[no-any-return]

    @property
    def training(self) -> Training:
        return self.section(Training)

    @property
    def model(self) -> Model:
        return self.section(Model)

    @property
    def resolution(self) -> Resolution:
        return self.section(Resolution)

    @property
    def data(self) -> Data:
        return self.section(Data)

    @property
    def groups(self) -> GroupSource:
        return self.section(GroupSource)

    @property
    def synthetic(self) -> Synthetic:
        return self.section(Synthetic)

    @property
    def spurious(self) -> Spurious:
        return self.section(Spurious)

    @property
    def loader(self) -> Loader:
        return self.section(Loader)

    @property
    def dist(self) -> Dist:
        return self.section(Dist)

    @property
    def logging(self) -> Logging:
        return self.section(Logging)

    def nested(self) -> dict[str, dict[str, Any]]:
        """Return sections of keys with plain values, as config.yaml stores them."""
        result: dict[str, dict[str, Any]] = {}
        for key, value in sorted(self.values.items()):
            name, one = key.split(".", 1)
            result.setdefault(name, {})[one] = list(value) if isinstance(value, tuple) else value
        return result

    def identity_hash(self) -> str:
        """Return 12 hex digits that change exactly when a setting changes that may change the results."""
        return hashlib.sha256(json.dumps(run_identity(self.values), sort_keys=True).encode()).hexdigest()[:12]

    def dump(self) -> str:
        """Return YAML that `--config-file` reads back to this configuration."""
        return yaml.safe_dump(self.nested(), sort_keys=False, allow_unicode=True)


IMPLIED: dict[tuple[str, Any], Mapping[str, Any]] = {}
SUGGESTED: dict[tuple[str, Any], Mapping[str, Any]] = {}


def imply(key: str, value: Any, implied: Mapping[str, Any]) -> None:
    """Set further settings where `key` is `value`; giving one of them another value is then an error."""
    IMPLIED[key, value] = implied


def suggest(key: str, value: Any, suggested: Mapping[str, Any]) -> None:
    """Set further settings where `key` is `value` and they are not given: other defaults of these settings."""
    SUGGESTED[key, value] = suggested


def load(files: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> Config:
    """Resolve config files and command-line overrides (['--training.lr', '0.1', '--a.b=c']).

    Raises: UsageError for a missing or malformed file, an unknown key, a wrong type or a bad value.
    """
    settings = declared()
    values: dict[str, Any] = {key: one.default for key, one in settings.items()}
    places: dict[str, str] = {}
    given = [(str(file), _flatten(Path(file), settings)) for file in files]
    for where, pairs in [*given, (COMMAND_LINE, _parse_overrides(overrides, settings))]:
        pairs = without_leftovers(pairs, where)
        check_names([key for key, _ in pairs], settings, where)
        for key, value in without_old_names(pairs, settings, where, is_whole=_is_whole(pairs)):
            values[key], places[key] = check_value(settings[key], key, value, where), where
    _add_implied(values, places)
    hand_to_fastargs(values)
    return Config(values)


def check_names(keys: Sequence[str], settings: Mapping[str, Setting], where: str) -> None:
    """Raise UsageError with all keys that are no settings, each with the nearest known one.

    A section that does not exist is named once, in place of its keys.

    keys: dotted keys, or names without a dot.
    settings: every declared setting.
    where: the place of the keys, for the message.
    """
    sections = sorted({key.split(".")[0] for key in settings})
    found: dict[str, dict[str, str]] = {"section": {}, "key": {}}
    for key in keys:
        section, dot, _ = key.partition(".")
        if key in settings or key in OLD_NAMES or section in found["section"]:
            continue
        if dot and section not in sections:
            hint = nearest(section, sections)
            found["section"][section] = nearest_key(key, settings) if hint == ";" else hint
        else:
            found["key"][key] = nearest_key(key, settings)
    if parts := [unknown_names(kind, hints) for kind, hints in found.items() if hints]:
        raise UsageError(f"{where}: {' '.join(parts)} see --help all")


def as_of_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a written configuration as this version writes them; unknown keys stay as they are.

    values: by dotted key. Old names and old spellings of null are replaced, so that old and new runs compare equal.
    """
    settings = declared()
    pairs = without_old_names(list(values.items()), settings, "config.yaml", is_whole=True)
    current = dict(pairs)
    for key in current.keys() & settings.keys():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            checked = settings[key].checker.check(current[key])
            current[key] = list(checked) if isinstance(checked, tuple) else checked
    return current


def _is_whole(pairs: Sequence[tuple[str, Any]]) -> bool:
    """Return whether a place gives the settings of IN_EVERY_RUN, as the config.yaml of a run of any version does."""
    return {*IN_EVERY_RUN} <= {key for key, _ in pairs}


def _add_implied(values: dict[str, Any], given: Mapping[str, str]) -> None:
    for (key, value), suggested in SUGGESTED.items():
        if values.get(key) == value:
            values.update({other: wanted for other, wanted in suggested.items() if other not in given})
    for (key, value), implied in IMPLIED.items():
        for other, wanted in implied.items() if values.get(key) == value else ():
            if other in given and values[other] != wanted:
                raise UsageError(
                    f"{given[other]}: {other} is {values[other]!r}, but {key} '{value}' makes it {wanted!r}; "
                    "leave one of them out"
                )
            values[other] = wanted


def _flatten(path: Path, settings: Mapping[str, Setting]) -> list[tuple[str, Any]]:
    """Return the dotted keys of one YAML or JSON file with their values."""
    content = _content(path)
    pairs: list[tuple[str, Any]] = []
    sections = {key.split(".")[0] for key in settings}
    for name, entries in content.items():
        if name not in sections and not (isinstance(entries, dict) and entries):
            pairs.append((str(name), entries))  # `load` refuses it, with all other unknown names of the file
            continue
        if entries is None:
            continue
        if not isinstance(entries, dict):
            raise UsageError(f"{path}: section '{name}' is {entries!r}; expected keys below it, such as 'key: value'")
        for one, value in entries.items():
            key = f"{name}.{one}"
            if value is None and key in settings and not isinstance(settings[key].checker, OrNull):
                raise UsageError(f"{path}: {key} has no value; give one or remove the line")
            pairs.append((key, value))
    return pairs


def _content(path: Path) -> dict[str, Any]:
    """Return the sections of one YAML or JSON file, which is read again only once it has changed."""
    try:
        status = path.stat()
    except OSError:
        return _read_content(path, 0, 0)  # says what is wrong
    return _read_content(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)  # the jobs of a study share a few files
def _read_content(path: Path, changed: int, size: int) -> dict[str, Any]:
    return read_mapping(path, "config file", "sections such as 'training:'")


def _parse_overrides(tokens: Sequence[str], settings: Mapping[str, Setting]) -> list[tuple[str, str]]:
    pairs, i = [], 0
    while i < len(tokens):
        token = tokens[i]
        if not token.startswith("--"):
            raise UsageError(f"unexpected argument '{token}'; settings are written --section.key VALUE")
        key, equals, value = token[2:].partition("=")
        if not equals:
            if i + 1 >= len(tokens):
                raise UsageError(f"--{key} has no value{'' if key in settings else nearest_key(key, settings)}")
            i += 1
            value = tokens[i]
        pairs.append((key, value))
        i += 1
    return pairs
