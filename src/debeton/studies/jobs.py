"""Jobs of a study, and the placeholders in their texts: {name}, {best:VARIANT} and {run:VARIANT}."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from debeton.system.errors import UsageError
from debeton.system.file_names import CONTROL, file_name

LONGEST_NAME = 200  # bytes of a job's name in UTF-8; its files add suffixes, and a file system takes 255
PLACEHOLDER_KINDS = ("best", "run")  # the best checkpoint of a variant, or its run folder
PLACEHOLDER = re.compile(rf"\{{([\w.]+|(?:{'|'.join(PLACEHOLDER_KINDS)}):[\w.-]+)\}}")

Point = Mapping[str, Any]  # values by name: of axes, of a draw, or of settings


@dataclass(frozen=True)
class Job:
    """One run of a study.

    name: training.exp_name of the run.
    variant: name of the variant.
    configs: configuration files, relative to the project.
    settings: values by key ('training.lr'); {best:VARIANT} and {run:VARIANT} are not yet replaced.
    point: values of the study's axes.
    setting: values of the variant's own axes and of the draw.
    seed: training.seed of the run.
    betons: commands that write the betons to train on; {betons} stands for their folder. Empty: the settings name one.
    data: name of the folder of the betons.
    draw: number of the draw in a random search, from 0; None: no search.
    searched: keys that were drawn.
    minutes: time limit; 0: none.
    best_of: variant whose best setting the job runs, in addition to `settings`; training.selection judges it. '': none.
    """

    name: str
    variant: str
    configs: tuple[str, ...]
    settings: Point
    point: Point
    setting: Point
    seed: int
    betons: tuple[str, ...] = ()
    data: str = ""
    draw: int | None = None
    searched: tuple[str, ...] = ()
    minutes: float = 0
    best_of: str = ""

    def __post_init__(self) -> None:
        """Check the names of the job's folders and files. UsageError for one that is no name, or too long."""
        for text, kind in ((self.name, "name"), (self.data, "data")):
            if set(text) & {"/", "\0"} or text in (".", "..") or CONTROL.search(text):
                raise UsageError(
                    f"job {text!r}: its {kind} is no name of a file; expected one like {file_name(text)!r}"
                )
            if len(text.encode()) > LONGEST_NAME:
                raise UsageError(
                    f"job {text[:60]}...: its {kind} has {len(text.encode())} bytes, and at most {LONGEST_NAME} fit "
                    "with the suffixes of its files; shorten the names of variants and axes, or give the values of an "
                    "axis short names, as in 'mode: {short: {section.key: LONG}}'"
                )

    @property
    def setting_key(self) -> str:
        """Return a text that all seeds of one setting share, and that differs between the variant's settings."""
        return f"{self.draw} {self.setting}"

    @property
    def label(self) -> str:
        """Return the name without the seed and the number of the draw."""
        name = self.name.removesuffix(f"_seed{self.seed}")
        return name if self.draw is None else name.removesuffix(f"_draw{self.draw}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the variants whose best setting, best checkpoint or run folder this job uses."""
        named = variants_named_in(self.settings.values())
        return tuple(dict.fromkeys([self.best_of, *named] if self.best_of else named))


def axis_text(value: Any) -> str:
    """Return the value of an axis as text, as it stands in the names of jobs and in commands.

    A whole number reads the same with and without its point, as in 1 and 1.0. Other numbers keep every digit.
    """
    if value is None:
        return "null"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def axis_piece(key: str, value: Any) -> str:
    """Return the piece of a job's name for one axis, such as 'mapping=step'."""
    return name_piece(f"{key.rsplit('.', 1)[-1]}={axis_text(value)}")


def name_piece(text: str) -> str:
    """Return a text as a piece of a job's name: with '-' for '/', and else as `file_name` makes it."""
    return file_name(text.replace("/", "-"))


def variants_named_in(values: Iterable[Any]) -> list[str]:
    """Return the variants that {best:VARIANT} and {run:VARIANT} in these texts name, each once, in order."""
    placeholders = [name for value in values if isinstance(value, str) for name in PLACEHOLDER.findall(value)]
    variants = [split_placeholder(name)[1] for name in placeholders]
    return list(dict.fromkeys(variant for variant in variants if variant))


def split_placeholder(placeholder: str) -> tuple[str, str]:
    """Split 'best:erm' into ('best', 'erm'). Return ('', '') for a placeholder that names no variant."""
    kind, _, variant = placeholder.partition(":")
    return (kind, variant) if kind in PLACEHOLDER_KINDS and variant else ("", "")


def fill_placeholders(text: str, values: Mapping[str, str], where: str) -> str:
    """Replace the placeholders of a text, except those that name a variant.

    text: text with placeholders such as {seed}.
    values: values by name.
    where: place of the text, for the error message.

    UsageError: a placeholder has no value.
    """

    def value(match: re.Match[str]) -> str:
        """Return the value of one placeholder."""
        name = match[1]
        if split_placeholder(name)[1]:
            return match[0]
        if name not in values:
            raise UsageError(
                f"{where}: nothing says what {{{name}}} is; give it with --set {name}=VALUE"
                + (" (or --raw DIR)" if name == "raw" else "")
            )
        return values[name]

    return PLACEHOLDER.sub(value, text)


def fill_command(command: str, values: Mapping[str, str], where: str) -> str:
    """Replace the placeholders of a command, each within its word: no value becomes several words or a quote.

    command, values, where: as of `fill_placeholders`. The command is quoted as for a shell, as `shlex.split` reads it.
    """
    words = [fill_placeholders(word, values, where) for word in shlex.split(command)]
    filled = fill_placeholders(command, values, where)
    # The text of an ordinary command stays as it is, as betons that an older version wrote are known by it.
    with contextlib.suppress(ValueError):  # a value has a quote
        if shlex.split(filled) == words:
            return filled
    return shlex.join(words)
