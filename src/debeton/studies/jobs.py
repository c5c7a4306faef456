"""Jobs of a study, and the placeholders in their texts: {name}, {best:VARIANT} and {run:VARIANT}."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from debeton.system.errors import UsageError

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
        """Return the names of the variants whose best checkpoint or run folder this job uses."""
        return tuple(variants_named_in(self.settings.values()))


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
    return f"{key.rsplit('.', 1)[-1]}={axis_text(value)}".replace("/", "-")


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
