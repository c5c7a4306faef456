"""Sections of settings: frozen dataclasses whose fields carry their checker and their help.

    @section("jtt", "Just Train Twice")
    @dataclass(frozen=True)
    class JttSettings:
        upweight: int = setting(Int(0), "further copies of each error row (lambda)", default=50)

The decorator declares the parameters of fastargs, `load` gives them values, and `config.section(JttSettings).upweight`
is an int for mypy and at run time. A module outside the package declares its sections in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from fastargs import Param, Section
from fastargs.config import Config as FastargsConfig
from fastargs.state import get_current_config

from debeton.config.checkers import Checker
from debeton.system.errors import UsageError, nearest

T = TypeVar("T")
S = TypeVar("S")

# The part of a value in the identity of a run (identity.py has the rules):
# setting: the value may change the results; runs that differ in it are different settings.
# seed: the value may change the results; runs that differ in seeds alone repeat one setting.
# place: the folder of the data; another folder makes another run, of the same setting.
# none: the value changes no result; it says where a run is stored, how fast it is, or how it is watched.
Identity = Literal["setting", "seed", "place", "none"]


@dataclass(frozen=True)
class Setting:
    """A setting of a section.

    checker, help, default: as `setting` takes them.
    replaces: the field of `PhaseSettings` that the value stands for in that phase; empty for every other setting.
    identity: part of the value in the identity of a run; None: as the section says.
    key: the name of the setting, where it is not that of the field; '' where it is.
    """

    checker: Checker[Any]
    help: str
    default: Any
    replaces: str = ""
    identity: Identity | None = None
    key: str = ""


@dataclass(frozen=True)
class Declared:
    """A declared section: its dataclass, a line of help, its settings by name, and their part in a run's identity."""

    cls: type[Any]
    help: str
    settings: dict[str, Setting]
    identity: Identity = "setting"


SECTIONS: dict[str, Declared] = {}
_NAMES: dict[type[Any], str] = {}


def setting(checker: Checker[T], help: str, *, default: T, identity: Identity | None = None, key: str = "") -> T:
    """Declare a field of a section.

    checker: what the value may be.
    help: a noun phrase with range and unit, and the meaning of null where it may be null.
    default: a value that the checker accepts.
    identity: part of the value in the identity of a run; None: as the section says.
    key: the name of the setting, where that is no name for a field, such as 'from'.
    """
    return declared_field(  # type: ignore[no-any-return]
        Setting(checker, help, checker.check(default), identity=identity, key=key)
    )


def declared_field(declaration: Setting) -> Any:
    """Return the dataclass field of a setting."""
    return field(default=declaration.default, metadata={Setting.__name__: declaration})


def section(name: str, help: str, *, identity: Identity = "setting") -> Callable[[type[S]], type[S]]:
    """Return a decorator that declares a frozen dataclass as the section `name` of the configuration.

    name: name of the section.
    help: a line about it.
    identity: part of the section's values in the identity of a run, for settings that do not say so themselves.

    Raises: TypeError where the class is no frozen dataclass of settings, UsageError where the name is taken.
    """

    def declare(cls: type[S]) -> type[S]:
        settings = {
            key: replace(one, identity=one.identity or identity) for key, one in _settings_of(cls, name).items()
        }
        other = SECTIONS.get(name)
        if other is not None and _place(other.cls) != _place(cls):
            raise UsageError(
                f"the configuration's section '{name}' is declared by {_place(other.cls)} and by {_place(cls)}; "
                "give one of them another name"
            )
        params = {key: Param(one.checker, one.help, default=one.default) for key, one in settings.items()}
        Section(name, help).params(**params)
        SECTIONS[name], _NAMES[cls] = Declared(cls, help, settings, identity), name
        return cls

    return declare


def _settings_of(cls: type[Any], name: str) -> dict[str, Setting]:
    if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"section '{name}': {cls.__name__} is no frozen dataclass; put @dataclass(frozen=True) below")
    plain = [field.name for field in fields(cls) if Setting.__name__ not in field.metadata]
    if plain:
        raise TypeError(f"section '{name}': {cls.__name__}.{plain[0]} has no checker; declare it with setting(...)")
    return {setting_key(field): field.metadata[Setting.__name__] for field in fields(cls)}


def setting_key(one: Field[Any]) -> str:
    """Return the name of the setting that a field of a section declares."""
    return one.metadata[Setting.__name__].key or one.name


def _place(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def section_name(cls: type[Any]) -> str:
    """Return the name of the section that a dataclass declares; TypeError where it declares none."""
    if cls not in _NAMES:
        raise TypeError(f"{_place(cls)} declares no section; decorate it with @section(NAME, HELP)")
    return _NAMES[cls]


def declared() -> dict[str, Setting]:
    """Return every declared setting by its dotted key, such as 'training.lr'."""
    return {f"{name}.{key}": one for name, entry in SECTIONS.items() for key, one in entry.settings.items()}


def hand_to_fastargs(values: dict[str, Any]) -> None:
    """Make the values those of fastargs' current configuration, for code that asks fastargs."""
    config: FastargsConfig = get_current_config()
    config.content = {tuple(key.split(".")): value for key, value in values.items()}


def check_value(one: Setting, key: str, value: Any, where: str) -> Any:
    """Return a value as its checker has it; UsageError that names the key and the place where it was given."""
    try:
        return one.checker.check(value)
    except UsageError as error:
        raise UsageError(f"{where}: {key}: {error}") from None
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{where}: {key} is {value!r}; expected {one.checker.help()}") from None


def show(value: Any) -> str:
    """Return a value as YAML and the command line write it: null, true, a list as 'a,b'."""
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return ",".join(map(show, value)) or "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def nearest_key(key: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the same name in another section, or with the closest spelling."""
    known = list(known)
    name = key.rsplit(".", 1)[-1]
    elsewhere = [k for k in known if k.rsplit(".", 1)[-1] == name]
    return f"; did you mean '{elsewhere[0]}'?" if elsewhere else nearest(key, known)
